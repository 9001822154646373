//! The binary as its users run it: every command, its output, its exit codes.
