"""What both pipelines are built from: threads that fail together, meters, warnings, and safe access below a folder."""
