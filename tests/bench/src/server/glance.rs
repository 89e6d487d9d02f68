//! The real Glance, by `scripts/devcloud`, with the images uploaded.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Catalogue, Image, Server};
use crate::Result;
use crate::content::Content;
use crate::devcloud::Devcloud;
use crate::process::run;

/// Puts records into Glance's database: a second, instead of minutes by POST.
const FILL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../e2e/fill_glance.py");

/// A running Glance that asks for no authentication; stopped when dropped.
pub struct Glance {
    devcloud: Devcloud,
    /// Where it is.
    pub server: Server,
}

/// Another one, with many records and no data.
pub struct GlanceCatalogue {
    _glance: Glance,
    /// What it has.
    pub catalogue: Catalogue,
}

impl GlanceCatalogue {
    /// Starts one with so many `records` below `folder`.
    pub fn start(folder: &Path, records: usize) -> Result<Self> {
        let glance = Glance::start(folder)?;
        let database = glance.devcloud.dir().join("glance/glance.db");
        run(Command::new("python3").arg(FILL).arg(database).arg(records.to_string()))?;
        let catalogue = Catalogue { server: glance.server.clone(), records, size: None };
        Ok(Self { _glance: glance, catalogue })
    }
}

impl Glance {
    /// Starts one whose data are below `folder`.
    pub fn start(folder: &Path) -> Result<Self> {
        let devcloud = Devcloud::up_below(folder, "none", &[]);
        let port = devcloud.endpoint().rsplit(':').next().unwrap_or_default().parse()?;
        let process = fs::read_to_string(devcloud.dir().join("glance/pid"))?;
        let process = process.split_whitespace().next().unwrap_or_default().parse()?;
        let access_log = devcloud.dir().join("glance/access.log");
        Ok(Self { devcloud, server: Server { port, process, access_log } })
    }

    /// Makes an image whose data are in the file `plain`, which is written first.
    pub fn make(&self, name: &str, content: Content, plain: PathBuf) -> Result<Image> {
        content.write(&plain)?;
        let id = self.reserve(name)?;
        self.upload(&id, &plain)?;
        Ok(Image { name: name.to_owned(), served: self.images().join(&id), id, content, plain })
    }

    /// Makes a record in status `queued`; its id.
    pub fn reserve(&self, name: &str) -> Result<String> {
        let record = serde_json::json!({"name": name, "disk_format": "raw", "container_format": "bare"});
        let mut curl = self.curl("/v2/images");
        let answer = run(curl.args(["-H", "Content-Type: application/json", "-d", &record.to_string()]))?;
        let record: serde_json::Value = serde_json::from_str(&answer)?;
        Ok(record["id"].as_str().ok_or("no id in the answer to POST")?.to_owned())
    }

    /// Sends the data of a reserved image.
    pub fn upload(&self, id: &str, file: &Path) -> Result<()> {
        let mut curl = self.curl(&format!("/v2/images/{id}/file"));
        run(curl.args(["-H", "Content-Type: application/octet-stream", "-T"]).arg(file)).map(|_| ())
    }

    /// Removes an image.
    pub fn delete(&self, id: &str) -> Result<()> {
        run(self.curl(&format!("/v2/images/{id}")).args(["-X", "DELETE"])).map(|_| ())
    }

    /// The answer to a GET.
    pub fn get(&self, path: &str) -> Result<String> {
        run(&mut self.curl(path))
    }

    /// The folder of the data files, each named as its image's id.
    pub fn images(&self) -> PathBuf {
        self.devcloud.dir().join("glance/images")
    }

    fn curl(&self, path: &str) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["-sSf", "--noproxy", "*", "-H", "Expect:"])
            .arg(format!("{}{path}", self.devcloud.endpoint()));
        curl
    }
}
