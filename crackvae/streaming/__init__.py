"""Live scoring in one process, without Ray: frames of a camera or files as they arrive, and a status page."""
