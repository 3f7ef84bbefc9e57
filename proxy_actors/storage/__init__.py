"""What must outlive the process: the session table and the one thread that writes it."""
