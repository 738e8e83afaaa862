"""The central operation: match(members, fit type, gauge) -> one correction per member. Equations: MODEL.md."""
