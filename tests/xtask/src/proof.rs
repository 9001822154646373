//! The proofs that go on for as long as one likes: seeds of the simulation, states of the model.
//!
//! Must never say that all is well where the program that looks did not end well.

use crate::cargo;
use crate::step::{StepError, Steps};

/// Runs seeds of the simulation.
pub(crate) fn simulation(arguments: &[&str]) -> Result<(), StepError> {
    Steps::new(1).run("simulation", |step| {
        let mut run = cargo(&["run", "--quiet", "--locked", "--package", "gigastore-tests", "--bin", "sim", "--"]);
        run.args(arguments);
        step.command(run)
    })
}

/// Searches the states of the model that are too many for every change.
pub(crate) fn model(arguments: &[&str]) -> Result<(), StepError> {
    Steps::new(1).run("model", |step| {
        let mut run = cargo(&["run", "--quiet", "--locked", "--package", "gigastore-model", "--"]);
        run.args(arguments);
        step.command(run)
    })
}
