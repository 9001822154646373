//! Bad files, bad disks and foreign stores: a clear error each, nothing half-written, nothing half-visible.
