"""Training HDRUNet: losses, patches, and a loop that runs in one process or in many. No Ray here."""
