//! Counters of what the mount did, read by `.glancefs/metrics` and the logs.
