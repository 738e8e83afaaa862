"""What may be removed of what runs leave behind: stored files, flow runs, and the records of sweeps."""
