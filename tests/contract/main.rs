//! What every store must do, whatever is below it, and what the log keeps under many committers and failing puts.
