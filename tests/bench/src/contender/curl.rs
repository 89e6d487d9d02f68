//! curl as a contender: one whole download, thrown away.

use std::process::Command;
use std::time::Duration;

use crate::Result;
use crate::process::run;
use crate::server::Image;

/// What curl says of a download.
#[derive(Debug, Clone, Copy)]
pub struct Download {
    /// From the connect to the last byte, without the start of the process.
    pub whole: Duration,
    /// Until the first byte.
    pub first_byte: Duration,
}

/// Downloads an image to `/dev/null`: nothing is faster in one transfer. The number of bytes is checked; which bytes nginx
/// and Glance send, all others have compared.
pub fn download(port: u16, image: &Image) -> Result<Download> {
    let mut curl = Command::new("curl");
    curl.args(["-sSf", "--noproxy", "*", "-o", "/dev/null", "-w"]);
    curl.arg("%{size_download} %{time_total} %{time_starttransfer}");
    let said = run(curl.arg(format!("http://127.0.0.1:{port}/v2/images/{}/file", image.id)))?;
    let words: Vec<&str> = said.split(' ').collect();
    let [size, whole, first_byte] = words[..] else { return Err(format!("curl said {said:?}").into()) };
    if size.parse::<u64>()? != image.content.size {
        return Err(format!("curl got {size} of {} bytes", image.content.size).into());
    }
    let seconds = |text: &str| -> Result<Duration> { Ok(Duration::from_secs_f64(text.parse()?)) };
    Ok(Download { whole: seconds(whole)?, first_byte: seconds(first_byte)? })
}
