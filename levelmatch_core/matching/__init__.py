"""The one operation: match(members, fit type, gauge) -> one correction a member."""
