// SPDX-License-Identifier: GPL-2.0

//! How the command ends: its exit statuses, and what ends it early.

/// Something did not work.
pub(crate) const ERROR: u8 = 1;
/// The command line makes no sense.
pub(crate) const USAGE: u8 = 2;
/// Some pages of a living process were left behind.
pub(crate) const LEFT_BEHIND: u8 = 3;
/// A signal ended the work, as a shell says it of SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// What ends the command early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line makes no sense.
    Usage(String),
    /// Something did not work.
    Error(String),
}

impl Failure {
    pub(crate) fn status(&self) -> u8 {
        match self {
            Failure::Usage(_) => USAGE,
            Failure::Error(_) => ERROR,
        }
    }

    /// What a program calls it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Failure::Usage(_) => "usage",
            Failure::Error(_) => "error",
        }
    }

    pub(crate) fn message(&self) -> &str {
        match self {
            Failure::Usage(message) | Failure::Error(message) => message,
        }
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Failure::Error(message)
    }
}
