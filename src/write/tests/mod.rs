//! Whole uploads against a Glance that fails as told: each failure rule of the design.

mod commit;
mod ending;
mod failure;
mod leftovers;
mod replacement;
mod reservation;
mod strays;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::fake::{FakeGlance, files, image, intent};
use super::{Draft, Intent, Uploads};
use crate::error::Result;
use crate::glance::Image;

struct Rig {
    glance: FakeGlance,
    uploads: Uploads,
    dir: tempfile::TempDir,
}

fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let glance = FakeGlance::default();
    Rig { uploads: glance.uploads(dir.path()), glance, dir }
}

impl Rig {
    fn draft(&self, bytes: &[u8]) -> Arc<Draft> {
        self.draft_of(intent("new"), bytes)
    }

    fn draft_of(&self, intent: Intent, bytes: &[u8]) -> Arc<Draft> {
        let draft = self.uploads.draft(intent).unwrap();
        draft.write(0, bytes).unwrap();
        draft
    }

    /// A commit under way, whose data are being sent.
    async fn sending(&self, draft: &Arc<Draft>) -> JoinHandle<Result<Image>> {
        let committing = tokio::spawn({
            let draft = draft.clone();
            async move { draft.commit().await }
        });
        let sending = async {
            while self.requests("PUT") == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), sending).await.unwrap();
        committing
    }

    /// A reservation in Glance, and the intent to fill it.
    fn reservation(&self) -> Intent {
        let image = image(1);
        self.glance.state().images.insert(image.id.clone(), (image.clone(), bytes::Bytes::new()));
        Intent { id: image.id, name: "old".into(), reserved: true, replaces: None }
    }

    fn requests(&self, method: &str) -> usize {
        self.glance.state().log.iter().filter(|line| line.starts_with(method)).count()
    }

    fn files(&self) -> usize {
        files(self.dir.path()).len()
    }
}

fn qcow2() -> Vec<u8> {
    let mut bytes = vec![7; 3 << 20];
    bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    bytes[8..512].fill(0);
    bytes
}
