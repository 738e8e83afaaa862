"""Text that comes from files and users: made plain, and matched without hanging."""
