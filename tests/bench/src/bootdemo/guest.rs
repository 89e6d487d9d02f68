//! A virtual machine, from the making of its overlay until it has said on its serial line that it has started.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::arguments::Arguments;
use crate::Result;
use crate::process::{Processes, run};

/// After this a guest will not start any more. A slow machine that emulates takes minutes.
const PATIENCE: Duration = Duration::from_secs(900);

/// What a guest has said when it had started.
#[derive(Debug, Clone, Copy)]
pub struct Started {
    /// How long it took, from the making of the overlay.
    pub after: Duration,
    /// What it has read from its disk since the kernel runs, in bytes.
    pub read: u64,
    /// How long it has waited for that, all reads added up.
    pub waited: Duration,
    /// Processor time that QEMU has used.
    pub worked: Duration,
}

/// A running guest; it is killed when dropped.
pub struct Guest {
    began: Instant,
    child: Child,
    /// Lines of the serial line, and when they came.
    lines: Receiver<(Instant, String)>,
    said: Vec<String>,
}

impl Guest {
    /// Starts one from a new overlay in `folder` whose backing file is `image`, as Nova does.
    pub fn start(arguments: &Arguments, image: &Path, folder: &Path) -> Result<Self> {
        let overlay = folder.join("overlay.qcow2");
        let _ = std::fs::remove_file(&overlay);
        let began = Instant::now();
        let mut create = Command::new("qemu-img");
        run(create.args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]).arg(image).arg(&overlay))?;
        let drive =
            format!("file={},if=virtio,format=qcow2,cache={}", overlay.display(), arguments.drive_cache);
        Self::run(arguments, &["-drive", &drive], folder, began)
    }

    /// Starts one without a disk, which gets as far as its firmware.
    pub fn without_disk(arguments: &Arguments, folder: &Path) -> Result<Self> {
        Self::run(arguments, &[], folder, Instant::now())
    }

    fn run(arguments: &Arguments, disk: &[&str], folder: &Path, began: Instant) -> Result<Self> {
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-accel", &arguments.accel, "-m", "1024", "-smp", "1", "-nodefaults", "-display", "none"]);
        // Without a source of random numbers a guest waits for some.
        qemu.args(["-serial", "stdio", "-device", "virtio-rng-pci"]).args(disk);
        let errors = File::create(folder.join("qemu.log"))?;
        qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        let mut child =
            qemu.spawn().map_err(|error| format!("qemu-system-x86_64 does not start: {error}"))?;
        let output = child.stdout.take().ok_or("QEMU has no output")?;
        let (send, lines) = channel();
        // Ends with QEMU.
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while output.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                let text = String::from_utf8_lossy(&line).trim().to_owned();
                if send.send((Instant::now(), text)).is_err() {
                    break;
                }
                line.clear();
            }
        });
        Ok(Self { began, child, lines, said: Vec::new() })
    }

    /// Waits until it has started.
    pub fn started(&mut self) -> Result<Started> {
        let (at, line) = self.line("bootdemo: started ")?;
        let worked = Processes(vec![self.child.id()]).cpu_seconds();
        let number = |name: &str| -> Result<u64> {
            let word = line.split_whitespace().find_map(|word| word.strip_prefix(name));
            Ok(word.ok_or_else(|| format!("the guest said {line:?}"))?.parse()?)
        };
        Ok(Started {
            after: at - self.began,
            // The unit of /sys/block/*/stat is 512 bytes, whatever the disk's sectors are.
            read: number("sectors=")? * 512,
            waited: Duration::from_millis(number("milliseconds=")?),
            worked: Duration::from_secs_f64(worked),
        })
    }

    /// Has it compare what it reads with what its image was made of.
    ///
    /// # Errors
    /// Where it differs.
    pub fn check(&mut self) -> Result<()> {
        self.child.stdin.as_mut().ok_or("QEMU has no input")?.write_all(b"\n")?;
        match self.line("bootdemo: ")?.1.contains("right") {
            true => Ok(()),
            false => Err(format!("the guest has read wrong bytes: {}", self.said.join("\n")).into()),
        }
    }

    fn line(&mut self, with: &str) -> Result<(Instant, String)> {
        loop {
            let left = PATIENCE.saturating_sub(self.began.elapsed());
            let Ok((at, line)) = self.lines.recv_timeout(left) else {
                let last = self.said.split_off(self.said.len().saturating_sub(20));
                return Err(format!("the guest did not say {with:?}; it said: {}", last.join("\n")).into());
            };
            self.said.push(line.clone());
            if line.contains(with) {
                return Ok((at, line));
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
