//! epoll, as the generator and the upstream need it: which sockets have something to read?

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::Result;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

/// How many sockets one call tells of.
const EVENTS_MAX: usize = 256;

/// The sockets waited for.
pub(crate) struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    ready: Vec<usize>,
}

impl Poll {
    pub(crate) fn new() -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, events: Vec::with_capacity(EVENTS_MAX), ready: Vec::with_capacity(EVENTS_MAX) })
    }

    /// Waits for `socket` from now on, until it is closed; `token` stands for it.
    pub(crate) fn add(&self, socket: impl AsFd, token: usize) -> Result<()> {
        let data = epoll::EventData::new_u64(token as u64);
        Ok(epoll::add(&self.epoll, socket, data, epoll::EventFlags::IN)?)
    }

    /// The tokens of sockets that can be read; none if `timeout` passed before there was one.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> Result<&[usize]> {
        let timeout = timeout.map(Timespec::try_from).transpose()?;
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.ready.clear();
        #[expect(clippy::cast_possible_truncation, reason = "tokens were usize when they were added")]
        self.ready.extend(self.events.drain(..).map(|event| event.data.u64() as usize));
        Ok(&self.ready)
    }
}
