// SPDX-License-Identifier: GPL-2.0

//! Questions to file systems, whose servers may never answer.
//!
//! A helper thread asks and waits in the caller's place. When it takes too long, or a signal comes,
//! the caller goes on without an answer, and the helper is killed. A helper that even a kill does not
//! end is lost; this file bounds how many of them there may be.

use kernel::{
    prelude::*,
    str::CString, //
};

use crate::shim::{
    file::MappedFile,
    helper::{
        Asked,
        Ended,
        Helper,
        Patience,
        Wait, //
    }, //
};

/// How long a file system may take to answer.
const PATIENCE: Patience = Patience {
    first: 3000,
    last: 100,
};

/// Helpers that may wait for one device, for the files of one user, and in all, at a time. A file
/// system that has not answered is not asked again before it has. A user who mounts one dead server
/// after the other uses up that user's own share.
const OF_DEVICE: u32 = 4;
const OF_USER: u32 = 8;
const IN_ALL: u32 = 64;

/// Asks file systems for one call.
pub(crate) struct Questions {
    /// The helper, and the device of the files that it has been asked about.
    helper: Option<(u32, Helper)>,
}

impl Questions {
    /// Asks nothing yet.
    pub(crate) fn new() -> Self {
        Self { helper: None }
    }

    /// Runs `question` on a file, where somebody else can wait for the answer. `None` if there is none.
    ///
    /// # Errors
    ///
    /// `EINTR` if a signal came before the answer, `ENOMEM`.
    pub(crate) fn ask<T: Send + Unpin + 'static>(
        &mut self,
        file: MappedFile,
        wait: Wait,
        question: impl FnOnce(&MappedFile) -> T + Send + 'static,
    ) -> Result<Option<T>> {
        // A disk is there, whatever servers do elsewhere.
        let served = file.is_served();
        let asked = Asked {
            of_device: OF_DEVICE,
            of_user: if served { OF_USER } else { u32::MAX },
            in_all: if served { IN_ALL } else { u32::MAX },
            ..file.asked(wait)
        };
        let helper = self.helper_for(&asked)?;
        // The file is given up over there, too: to put the last reference may be to wait.
        let (helper, ended) = helper.run(PATIENCE, &asked, move || question(&file))?;
        self.helper = helper.map(|helper| (asked.dev, helper));
        match ended {
            Ended::Done(answer) => Ok(Some(answer)),
            Ended::Late(_) => Ok(None),
            Ended::Interrupted(_) => Err(EINTR),
        }
    }

    fn helper_for(&mut self, asked: &Asked) -> Result<Helper> {
        match self.helper.take() {
            Some((dev, helper)) if dev == asked.dev => Ok(helper),
            _ => {
                // So that whoever finds the thread waiting knows for what.
                let (major, minor) = (asked.dev >> 20, asked.dev & 0xf_ffff);
                let name = CString::try_from_fmt(fmt!("pm_ask/{major}:{minor}"))?;
                Helper::new(&name)
            }
        }
    }
}
