//! nginx in Glance's place: the same records, and the very files that Glance serves, by sendfile.
//!
//! A second listener shows a large catalogue without data, page by page.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Glance, Image, Server};
use crate::process::{Daemon, find};
use crate::{Result, within};

/// The values of `limit` that the catalogue knows; it takes others for the last, which is Glance's `api_limit_max`.
const LIMITS: [usize; 3] = [100, 500, 1000];

/// A running nginx; stopped when dropped.
pub struct Nginx {
    daemon: Daemon,
    /// Where it is.
    pub server: Server,
    catalogue: Catalogue,
}

impl Nginx {
    /// Starts one with the images of `glance`, and a catalogue of `records` images besides.
    pub fn start(folder: &Path, glance: &Glance, images: &[Image], records: usize) -> Result<Self> {
        let folder = folder.join("nginx");
        fs::create_dir_all(folder.join("record"))?;
        fs::write(folder.join("schema.json"), glance.get("/v2/schemas/image")?)?;
        let mut list = Vec::new();
        for image in images {
            let record = glance.get(&format!("/v2/images/{}", image.id))?;
            fs::write(folder.join("record").join(format!("{}.json", image.id)), &record)?;
            list.push(serde_json::from_str::<Value>(&record)?);
        }
        fs::write(
            folder.join("list.json"),
            json!({"images": list, "schema": "/v2/schemas/images"}).to_string(),
        )?;
        let model = list.first().ok_or("no image to model the catalogue on")?;
        for limit in LIMITS {
            write_pages(&folder.join(format!("pages-{limit}")), model, records, limit)?;
        }

        let size = model["size"].as_u64().ok_or("a record without a size")?;
        let [port, catalogue] = free_ports()?;
        let configuration = configuration(&folder, &glance.images(), port, catalogue);
        fs::write(folder.join("nginx.conf"), configuration)?;
        let mut command = Command::new(find("nginx").ok_or("nginx is not installed")?);
        command.args(["-e", "error.log", "-c", "nginx.conf", "-p"]).arg(&folder);
        let mut daemon = Daemon::start(command, &folder.join("output"))?;
        let answers = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
        if !within(Duration::from_secs(5), || answers() || daemon.ended().is_some())
            || daemon.ended().is_some()
        {
            let log = fs::read_to_string(folder.join("output")).unwrap_or_default();
            return Err(format!("nginx does not start: {log}").into());
        }
        let access_log = folder.join("access.log");
        let process = daemon.id();
        let server = Server { port, process, access_log };
        let catalogue = Server { port: catalogue, ..server.clone() };
        Ok(Self { daemon, server, catalogue: Catalogue { server: catalogue, records, size: Some(size) } })
    }

    /// The listener with many records.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.daemon.stop();
    }
}

/// A server of records only.
pub struct Catalogue {
    /// Where it is.
    pub server: Server,
    /// How many there are.
    pub records: usize,
    /// The size that each shows, in bytes; none: the first 1, the next 2, and so on.
    pub size: Option<u64>,
}

/// Pages as Glance gives them, each named by the marker that asks for it. `next` is a path, as Glance's is.
fn write_pages(folder: &Path, model: &Value, records: usize, limit: usize) -> Result<()> {
    fs::create_dir_all(folder)?;
    let id = |number: usize| format!("00000000-0000-4000-8000-{number:012}");
    for first in (0..records).step_by(limit) {
        let end = records.min(first + limit);
        let record = |number: usize| {
            let mut record = model.clone();
            let id = id(number);
            record["name"] = format!("image-{number:06}").into();
            record["self"] = format!("/v2/images/{id}").into();
            record["file"] = format!("/v2/images/{id}/file").into();
            record["id"] = id.into();
            record
        };
        let mut page = json!({"images": (first..end).map(record).collect::<Vec<_>>(), "first": "/v2/images"});
        if end < records {
            page["next"] = format!("/v2/images?limit={limit}&marker={}", id(end - 1)).into();
        }
        let marker = if first == 0 { String::new() } else { id(first - 1) };
        fs::write(folder.join(format!("{marker}.json")), page.to_string())?;
    }
    Ok(())
}

/// Two ports that are free now.
fn free_ports() -> Result<[u16; 2]> {
    let listeners =
        [TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?];
    Ok([listeners[0].local_addr()?.port(), listeners[1].local_addr()?.port()])
}

fn configuration(folder: &Path, images: &Path, port: u16, catalogue: u16) -> String {
    let (folder, images) = (folder.display(), images.display());
    // Workers of a master that is root would become another user, who may not read Glance's files.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    format!(
        r#"
daemon off;
{user}
worker_processes 2;
pid {folder}/pid;
error_log {folder}/error.log warn;
events {{ worker_connections 512; }}
http {{
  # One format with Glance's access log.
  log_format glance '[$time_local] $request $status $body_bytes_sent $request_time range=$http_range';
  access_log {folder}/access.log glance;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  sendfile on;
  tcp_nopush on;
  # Glance closes no connection after a number of requests.
  keepalive_requests 10000000;
  keepalive_timeout 75;
  default_type application/json;
  map $arg_limit $limit {{ default 1000; 100 100; 500 500; }}

  server {{
    listen 127.0.0.1:{port};
    location = /v2/schemas/image {{ alias {folder}/schema.json; }}
    location = /v2/images {{
      # Nobody looks for a name here; an answer to it must not be all images.
      if ($arg_name) {{ return 200 '{{"images": []}}'; }}
      alias {folder}/list.json;
    }}
    location ~ "^/v2/images/(?<id>[0-9a-f-]{{36}})$" {{ alias {folder}/record/$id.json; }}
    location ~ "^/v2/images/(?<id>[0-9a-f-]{{36}})/file$" {{
      default_type application/octet-stream;
      alias {images}/$id;
    }}
    # For rclone, which finds files by following links.
    location /files/ {{
      default_type application/octet-stream;
      alias {images}/;
      autoindex on;
    }}
  }}

  server {{
    listen 127.0.0.1:{catalogue};
    location = /v2/schemas/image {{ alias {folder}/schema.json; }}
    location = /v2/images {{
      if ($arg_name) {{ return 200 '{{"images": []}}'; }}
      alias {folder}/pages-$limit/$arg_marker.json;
    }}
  }}
}}
"#
    )
}
