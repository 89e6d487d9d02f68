//! `docs/metrics.md`, made of the definitions.

use std::fmt::Write;

use super::families::{ALL, Family};

/// What stands before the table.
const HEAD: &str = "\
# Metrics

`.glancefs/metrics` of a mount has them in the text format of Prometheus; with `--metrics-listen 9310` the mount also
answers `GET /metrics` on 127.0.0.1:9310 (any address can be given: `0.0.0.0:9310`, `[::]:9310`; there is no
authentication and no TLS). One process serves one mount, so each mount that is to be scraped needs a port of its own:

    scrape_configs:
      - job_name: glancefs
        static_configs:
          - targets: ['compute1:9310', 'compute2:9310']

Where node_exporter runs already, its textfile collector does without a port: a timer that runs
`cat /mnt/images/.glancefs/metrics > /var/lib/node_exporter/glancefs.prom.$$ && mv` of that to `glancefs.prom`.

`packaging/grafana/glancefs.json` is a dashboard, `packaging/prometheus/glancefs.rules.yml` has alerts.

This file is made of `src/metrics/families.rs` by `GLANCEFS_WRITE_DOCS=1 cargo test --test metrics`. Labels take few
values; ids and names of images are never among them.

| metric | type | labels | meaning |
| --- | --- | --- | --- |
";

/// What stands behind it.
const TAIL: &str = "
## Questions that they answer

| question | expression |
| --- | --- |
| share of blocks that readers found in the cache | `1 - rate(glancefs_cache_misses_total{tier=\"disk\"}[5m]) / (rate(glancefs_cache_hits_total{tier=\"memory\"}[5m]) + ignoring(tier) rate(glancefs_cache_hits_total{tier=\"disk\"}[5m]) + ignoring(tier) rate(glancefs_cache_misses_total{tier=\"disk\"}[5m]))` |
| how much of what came from the cloud was in vain | `rate(glancefs_wasted_bytes_total[1h]) / rate(glancefs_fetched_bytes_total[1h])` |
| 99 of 100 reads are faster than | `histogram_quantile(0.99, rate(glancefs_read_duration_seconds_bucket[5m]))` |
| share of requests that failed | `sum(rate(glancefs_requests_total{status=~\"5..\\|none\"}[5m])) / sum(rate(glancefs_requests_total[5m]))` |
| uploads that wait for a person | `sum(glancefs_uploads{state=~\"failed\\|kept\\|interrupted\\|unknown\"})` |
";

/// The whole document.
pub fn document() -> String {
    let mut text = HEAD.to_owned();
    for Family { name, kind, help, labels } in ALL {
        let labels: Vec<String> =
            labels.iter().map(|(label, values)| format!("`{label}`: {values}")).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| `{name}` | {} | {} | {help} |", kind.word(), labels.join("; "));
    }
    text + TAIL
}
