//! Random sequences of operations against a plain model: no kernel, no network, the real layers.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::fixture::{Fixture, Nobody, WRITER};
use super::*;
use crate::glance::fake::FakeService;
use crate::units::ByteRange;

/// Few names, so that sequences meet: among them one that needs encoding.
const NAMES: [&str; 3] = ["a", "b", "c%2Fd"];

fn glance_name(name: &str) -> String {
    name.replace("%2F", "/")
}

#[derive(Debug, Clone)]
enum Op {
    Appear { name: usize, data: Vec<u8> },
    Vanish { name: usize },
    Refresh,
    Lookup { name: usize },
    Readdir,
    OpenForReading { name: usize },
    Read { open: usize, offset: u64, length: u64 },
    Create { name: usize, exclusive: bool },
    Write { open: usize, offset: u64, data: Vec<u8> },
    Truncate { open: usize, size: u64 },
    Close { open: usize, killed: bool },
    Rename { from: usize, to: usize },
    Unlink { name: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let name = 0..NAMES.len();
    let open = 0..4usize;
    let data = || prop::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        2 => (name.clone(), data()).prop_map(|(name, data)| Op::Appear { name, data }),
        1 => name.clone().prop_map(|name| Op::Vanish { name }),
        2 => Just(Op::Refresh),
        2 => name.clone().prop_map(|name| Op::Lookup { name }),
        2 => Just(Op::Readdir),
        3 => name.clone().prop_map(|name| Op::OpenForReading { name }),
        4 => (open.clone(), 0..400u64, 0..400u64)
            .prop_map(|(open, offset, length)| Op::Read { open, offset, length }),
        3 => (name.clone(), any::<bool>()).prop_map(|(name, exclusive)| Op::Create { name, exclusive }),
        5 => (open.clone(), 0..300u64, data()).prop_map(|(open, offset, data)| Op::Write { open, offset, data }),
        2 => (open.clone(), 0..300u64).prop_map(|(open, size)| Op::Truncate { open, size }),
        4 => (open, prop::bool::weighted(0.2)).prop_map(|(open, killed)| Op::Close { open, killed }),
        2 => (name.clone(), name.clone()).prop_map(|(from, to)| Op::Rename { from, to }),
        2 => name.prop_map(|name| Op::Unlink { name }),
    ]
}

/// What the model knows of an open file.
#[derive(Debug)]
enum Open {
    /// An image, with the bytes it had.
    Image { id: ImageId, data: Vec<u8> },
    /// A file that is being written.
    Written { name: String, data: Vec<u8>, dirty: bool, removed: bool },
}

struct Model {
    fs: Arc<ImageFs>,
    service: Arc<FakeService>,
    /// Images as the mount knows them: listed, looked up or made by it. Name and data by id.
    listed: BTreeMap<ImageId, (String, Option<Vec<u8>>)>,
    /// When each image was created, also of those that are gone: the oldest has the plain name.
    created: BTreeMap<ImageId, String>,
    open: Vec<(HandleId, Ino, Open)>,
    may_delete: bool,
    may_overwrite: bool,
    _folder: tempfile::TempDir,
}

impl Model {
    async fn new(may_delete: bool, may_overwrite: bool) -> Self {
        let Fixture { fs, service, folder } = Fixture::new(may_delete, may_overwrite, false).await;
        Self {
            fs,
            service,
            listed: BTreeMap::new(),
            created: BTreeMap::new(),
            open: Vec::new(),
            may_delete,
            may_overwrite,
            _folder: folder,
        }
    }

    /// The images of a name, the one with the plain file name first.
    fn images_named(&self, name: &str) -> Vec<ImageId> {
        let mut found: Vec<_> =
            self.listed.iter().filter(|(_, (listed, _))| listed == name).map(|(id, _)| id.clone()).collect();
        found.sort_by_key(|id| (self.listed[id].1.is_none(), self.created[id].clone()));
        found
    }

    fn written_named(&self, name: &str) -> Option<usize> {
        self.open.iter().position(|(_, _, open)| {
            matches!(open, Open::Written { name: written, removed: false, .. } if written == name)
        })
    }

    /// A name that the mount does not know costs it one look at the server.
    fn learn(&mut self, name: &str) {
        if self.written_named(name).is_none() && self.images_named(name).is_empty() {
            self.take_over(|listed| listed == name);
        }
    }

    /// Takes over what the server has of the names that `wanted` picks.
    fn take_over(&mut self, wanted: impl Fn(&str) -> bool) {
        let state = self.service.state();
        for (id, record) in &state.records {
            let name = record["name"].as_str().unwrap();
            if wanted(name) {
                self.listed.insert(id.clone(), (name.to_owned(), state.data.get(id).cloned()));
            }
        }
        let created = |record: &serde_json::Value| record["created_at"].as_str().unwrap().to_owned();
        self.created.extend(state.records.iter().map(|(id, record)| (id.clone(), created(record))));
    }

    async fn lookup(&self, name: &str) -> Result<Entry> {
        self.fs.lookup(Ino::ROOT, OsStr::new(name)).await
    }

    async fn run(&mut self, op: Op) {
        match op {
            Op::Appear { name, data } => {
                self.service.add(&glance_name(NAMES[name]), &data);
            }
            Op::Vanish { name } => {
                let mut state = self.service.state();
                let name = glance_name(NAMES[name]);
                let gone = state.records.iter().find(|(_, record)| record["name"] == name);
                if let Some(id) = gone.map(|(id, _)| id.clone()) {
                    state.records.remove(&id);
                    state.data.remove(&id);
                }
            }
            Op::Refresh => {
                self.fs.layers.catalog.refresh().await.unwrap();
                self.listed.clear();
                self.take_over(|_| true);
            }
            Op::Lookup { name } => {
                let found = self.lookup(NAMES[name]).await;
                let name = glance_name(NAMES[name]);
                self.learn(&name);
                let expected = match self.written_named(&name) {
                    Some(open) => match &self.open[open].2 {
                        Open::Written { data, .. } => Some(data.len() as u64),
                        Open::Image { .. } => unreachable!(),
                    },
                    None => self
                        .images_named(&name)
                        .first()
                        .map(|id| self.listed[id].1.as_ref().map_or(0, |data| data.len() as u64)),
                };
                match expected {
                    Some(size) => assert_eq!(found.unwrap().attr.size, size),
                    None => assert_eq!(found.unwrap_err().kind(), Kind::NotFound),
                }
            }
            Op::Readdir => self.readdir().await,
            Op::OpenForReading { name } => self.open_for_reading(name).await,
            Op::Read { open, offset, length } => self.read(open, ByteRange::at(offset, length)).await,
            Op::Create { name, exclusive } => self.create(name, exclusive).await,
            Op::Write { open, offset, data } => self.write(open, offset, data).await,
            Op::Truncate { open, size } => self.truncate(open, size).await,
            Op::Close { open, killed } => self.close(open, killed).await,
            Op::Rename { from, to } => self.rename(from, to).await,
            Op::Unlink { name } => self.unlink(name).await,
        }
    }

    async fn readdir(&self) {
        let handle = self.fs.opendir(Ino::ROOT).await.unwrap();
        let mut shown = Vec::new();
        while let Some(entry) = self.fs.dir_entry(handle, shown.len() as u64).unwrap() {
            shown.push(entry.name.to_string());
        }
        self.fs.releasedir(handle);
        let mut expected = vec![".".to_owned(), "..".to_owned()];
        for name in NAMES {
            let images = self.images_named(&glance_name(name));
            let written = self.written_named(&glance_name(name)).is_some();
            if written || !images.is_empty() {
                expected.push(name.to_owned());
            }
            for id in images.iter().skip(1) {
                expected.push(format!("{name}~{}", &id.as_str()[..8]));
            }
        }
        expected[2..].sort();
        assert_eq!(shown, expected);
    }

    async fn open_for_reading(&mut self, name: usize) {
        let mode = OpenMode { read: true, ..OpenMode::default() };
        let Ok(entry) = self.lookup(NAMES[name]).await else { return };
        let opened = self.fs.open(entry.attr.ino, mode, None).await;
        let name = glance_name(NAMES[name]);
        self.learn(&name);
        if self.written_named(&name).is_some() {
            // Reading back what another handle writes is not what this test is about.
            self.fs.release(opened.unwrap().handle).await;
            return;
        }
        let id = self.images_named(&name)[0].clone();
        match &self.listed[&id].1 {
            Some(data) => {
                let open = Open::Image { id, data: data.clone() };
                self.open.push((opened.unwrap().handle, entry.attr.ino, open));
            }
            None => {
                let on_server = self.service.state().records.contains_key(&id);
                let expected = if on_server { Kind::NoData } else { Kind::NotFound };
                assert_eq!(opened.unwrap_err().kind(), expected);
                if !on_server {
                    self.listed.remove(&id);
                }
            }
        }
    }

    async fn read(&self, open: usize, range: ByteRange) {
        let Some((handle, _, open)) = self.open.get(open) else { return };
        let bytes = self.fs.read(*handle, range).await;
        let data = match open {
            Open::Image { data, .. } | Open::Written { data, removed: false, .. } => data,
            Open::Written { .. } => return,
        };
        let range = range.clamp_to(data.len() as u64);
        let expected = &data[range.start as usize..range.end as usize];
        match (bytes, open) {
            (Ok(bytes), _) => assert_eq!(bytes, expected),
            (Err(error), Open::Image { id, .. }) => {
                assert_eq!(error.kind(), Kind::Stale);
                assert!(!self.service.state().records.contains_key(id), "only a deleted image is stale");
            }
            (Err(error), Open::Written { .. }) => panic!("{error}"),
        }
    }

    async fn create(&mut self, name: usize, exclusive: bool) {
        let mode = OpenMode { write: true, truncate: true, exclusive, read: false };
        // As the kernel does: look first, create what is not there, open what is.
        let found = self.lookup(NAMES[name]).await;
        let name = glance_name(NAMES[name]);
        self.learn(&name);
        if found.is_ok() {
            let created = self.fs.create(Ino::ROOT, OsStr::new(NAMES[0]), mode, Some(WRITER));
            if exclusive && name == NAMES[0] {
                assert_eq!(created.await.unwrap_err().kind(), Kind::Exists);
            }
            return;
        }
        let file_name = name.replace('/', "%2F");
        let (entry, opened) =
            self.fs.create(Ino::ROOT, OsStr::new(&file_name), mode, Some(WRITER)).await.unwrap();
        let open = Open::Written { name, data: Vec::new(), dirty: false, removed: false };
        self.open.push((opened.handle, entry.attr.ino, open));
    }

    async fn write(&mut self, open: usize, offset: u64, bytes: Vec<u8>) {
        let Some((handle, _, open)) = self.open.get_mut(open) else { return };
        let written = self.fs.write(*handle, offset, Bytes::from(bytes.clone())).await;
        match open {
            Open::Image { .. } => assert_eq!(written.unwrap_err().kind(), Kind::BadHandle),
            Open::Written { removed: true, .. } => {
                assert_eq!(written.unwrap_err().kind(), Kind::NotPermitted)
            }
            Open::Written { data, dirty, .. } => {
                assert_eq!(written.unwrap(), bytes.len());
                let end = offset as usize + bytes.len();
                if !bytes.is_empty() {
                    data.resize(data.len().max(end), 0);
                    data[offset as usize..end].copy_from_slice(&bytes);
                    *dirty = true;
                }
            }
        }
    }

    async fn truncate(&mut self, open: usize, size: u64) {
        let Some((handle, ino, open)) = self.open.get_mut(open) else { return };
        let new = NewAttributes { size: Some(size), ..NewAttributes::default() };
        match open {
            Open::Image { data, .. } => {
                let set = self.fs.setattr(*ino, None, new).await;
                if size != data.len() as u64
                    && let Err(error) = set
                {
                    assert!(matches!(error.kind(), Kind::NotPermitted | Kind::NotFound), "{error}");
                }
            }
            Open::Written { removed: true, .. } => {}
            Open::Written { data, dirty, .. } => {
                let attr = self.fs.setattr(*ino, Some(*handle), new).await.unwrap();
                assert_eq!(attr.size, size);
                *dirty |= size != data.len() as u64;
                data.resize(size as usize, 0);
            }
        }
    }

    async fn close(&mut self, open: usize, killed: bool) {
        if open >= self.open.len() {
            return;
        }
        let (handle, _, open) = self.open.remove(open);
        let before: Vec<_> = self.service.state().records.keys().cloned().collect();
        let closer = Closer { group: Some(WRITER), killed, holds_more: false };
        self.fs.flush(handle, closer, Nobody).await.unwrap();
        self.fs.release(handle).await;
        let Open::Written { name, data, dirty, removed } = open else { return };
        let state = self.service.state();
        let new: Vec<_> = state.records.keys().filter(|id| !before.contains(id)).cloned().collect();
        drop(state);
        if killed || removed {
            assert!(new.is_empty(), "nothing is published");
            return;
        }
        let [id] = new.as_slice() else { panic!("one image, not {new:?}") };
        let state = self.service.state();
        assert_eq!(state.records[id]["name"], name);
        assert_eq!(state.data.get(id), dirty.then_some(&data));
        let created = state.records[id]["created_at"].as_str().unwrap().to_owned();
        drop(state);
        self.listed.insert(id.clone(), (name, dirty.then_some(data)));
        self.created.insert(id.clone(), created);
    }

    async fn rename(&mut self, from: usize, to: usize) {
        let renamed =
            self.fs.rename(Ino::ROOT, OsStr::new(NAMES[from]), Ino::ROOT, OsStr::new(NAMES[to]), false);
        let renamed = renamed.await;
        let (from, to) = (glance_name(NAMES[from]), glance_name(NAMES[to]));
        let target = self.images_named(&to).first().cloned();
        if let Some(writing) = self.written_named(&from) {
            let Open::Written { name, .. } = &mut self.open[writing].2 else { unreachable!() };
            if from == to {
                renamed.unwrap();
            } else if target.is_none() && renamed.is_ok() {
                *name = to;
            } else {
                assert!(matches!(renamed.unwrap_err().kind(), Kind::Busy | Kind::NotPermitted));
            }
            return;
        }
        let Some(id) = self.images_named(&from).first().cloned() else {
            assert_eq!(renamed.unwrap_err().kind(), Kind::NotFound);
            return;
        };
        if from == to {
            return renamed.unwrap();
        }
        if self.written_named(&to).is_some() {
            assert_eq!(renamed.unwrap_err().kind(), Kind::Busy);
            return;
        }
        if target.is_some() && !self.may_overwrite {
            assert_eq!(renamed.unwrap_err().kind(), Kind::NotPermitted);
            return;
        }
        if !self.service.state().records.contains_key(&id) {
            assert_eq!(renamed.unwrap_err().kind(), Kind::NotFound);
            // The server said so, and it is not listed any more.
            self.listed.remove(&id);
            return;
        }
        renamed.unwrap();
        if let Some(target) = target {
            assert!(!self.service.state().records.contains_key(&target), "the image renamed over is gone");
            self.listed.remove(&target);
        }
        self.listed.get_mut(&id).unwrap().0 = to;
    }

    async fn unlink(&mut self, name: usize) {
        let removed = self.fs.unlink(Ino::ROOT, OsStr::new(NAMES[name])).await;
        let name = glance_name(NAMES[name]);
        if let Some(writing) = self.written_named(&name) {
            removed.unwrap();
            let Open::Written { removed, .. } = &mut self.open[writing].2 else { unreachable!() };
            *removed = true;
            return;
        }
        let Some(id) = self.images_named(&name).first().cloned() else {
            assert_eq!(removed.unwrap_err().kind(), Kind::NotFound);
            return;
        };
        if !self.may_delete {
            assert_eq!(removed.unwrap_err().kind(), Kind::NotPermitted);
            return;
        }
        removed.unwrap();
        assert!(!self.service.state().records.contains_key(&id));
        self.listed.remove(&id);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn files_behave_as_the_model_says(
        ops in prop::collection::vec(op(), 1..60),
        may_delete: bool,
        may_overwrite: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut model = Model::new(may_delete, may_overwrite).await;
            for op in ops {
                model.run(op).await;
            }
        });
    }
}
