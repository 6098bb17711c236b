"""What lies on disk, and in which order it is read. Imports numpy and pyarrow; torch only for feed's buffers."""
