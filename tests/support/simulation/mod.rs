//! The real engine and client in a world whose time, chance, threads and store are made up, all from one seed: the same
//! seed gives the same run, byte for byte.
//!
//! Must never ask the machine for the time, for chance or for a thread.
//!
//! | file | what it is |
//! |---|---|
//! | [`world`] | tasks and timers on one thread, virtual time, chance; participants that can be killed |
//! | [`bucket`] | what is really stored, with its whole history |
//! | [`mod@line`] | the way from one participant to the bucket: slow, lossy, repeating, and where participants die |
//! | [`weather`] | what goes wrong, how often |
//! | [`script`] | what users do, and with which bytes |
//! | [`cast`] | participants: processes of some users, each of which goes on until it is acknowledged |
//! | [`ledger`] | what users were told |
//! | [`checker`] | what must be true of bucket and acknowledgements at the end |
//! | [`run`] | whole runs: of a seed, and of a death at one operation |

pub mod bucket;
pub mod cast;
pub mod checker;
pub mod ledger;
pub mod line;
pub mod run;
pub mod script;
pub mod weather;
pub mod world;
