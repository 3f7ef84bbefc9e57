"""Sans-IO protocol code: bytes to events and back. Never reads, writes, waits or tells the time."""
