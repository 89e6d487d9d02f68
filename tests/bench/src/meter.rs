//! One measurement: time, traffic, processor seconds and memory of what ran.

use std::time::Duration;

use crate::Result;
use crate::process::Processes;
use crate::server::{AccessLog, Server, Traffic};

/// What one run of one phase of a case cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// How long the reader took.
    pub time: Duration,
    /// Bytes that the reader got.
    pub read: u64,
    /// Reads that it made.
    pub reads: u64,
    /// What the server sent.
    pub traffic: Traffic,
    /// Processor seconds of the file system's processes while the reader ran.
    pub daemon_cpu: f64,
    /// The same after that, until they were idle: writing to disk, verifying.
    pub daemon_cpu_after: f64,
    /// Processor seconds of the server.
    pub server_cpu: f64,
    /// The most memory that a process of the file system had at any time since its start, in bytes.
    pub peak_rss: u64,
}

/// Measures what happens between its start and its end.
pub struct Meter<'a> {
    server: &'a Server,
    log: AccessLog,
    daemon: Processes,
    daemon_before: f64,
    server_before: f64,
}

impl<'a> Meter<'a> {
    /// Starts to count for the processes of a file system (none for a program) and its server.
    pub fn start(server: &'a Server, daemon: Processes) -> Result<Self> {
        let log = AccessLog::from_now(&server.access_log)?;
        let (daemon_before, server_before) = (daemon.cpu_seconds(), server.processes().cpu_seconds());
        Ok(Self { server, log, daemon, daemon_before, server_before })
    }

    /// Ends the count, once all is idle.
    pub fn end(self, time: Duration, read: u64, reads: u64) -> Result<Sample> {
        let daemon_then = self.daemon.cpu_seconds();
        let mut all = self.server.processes();
        all.0.extend(&self.daemon.0);
        all.settle();
        Ok(Sample {
            time,
            read,
            reads,
            traffic: self.log.traffic()?,
            daemon_cpu: daemon_then - self.daemon_before,
            daemon_cpu_after: self.daemon.cpu_seconds() - daemon_then,
            server_cpu: self.server.processes().cpu_seconds() - self.server_before,
            peak_rss: self.daemon.peak_rss(),
        })
    }
}
