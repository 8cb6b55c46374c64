//! Which images go when the disk fills up: those that no container has, the longest unused first.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use skiff_cri::v1::{ContainerFilter, Image};
use skiff_cri::{Runtime, RuntimeError};

use crate::node::Node;
use crate::pod::facts;

/// An image younger than this is left alone: a pod may be about to use it.
const YOUNG: Duration = Duration::from_secs(120);

/// How often their use is looked at while there is room.
const LOOK: Duration = Duration::from_secs(300);

/// What is remembered of images: when each was first seen, and last seen in use.
#[derive(Default)]
pub(super) struct ImageUse {
    known: HashMap<String, (Duration, Duration)>,
    looked: Option<Duration>,
}

impl ImageUse {
    /// Takes note of which images are there and which are in use.
    fn note(&mut self, images: &[Image], used: &BTreeSet<String>, now: Duration) {
        self.known.retain(|id, _| images.iter().any(|image| image.id == *id));
        for image in images {
            let (_, last) = self.known.entry(image.id.clone()).or_insert((now, Duration::ZERO));
            if used.contains(&image.id) {
                *last = now;
            }
        }
    }

    /// The images that may go, the first to go first.
    fn superfluous<'a>(
        &self,
        images: &'a [Image],
        used: &BTreeSet<String>,
        kept: &BTreeSet<String>,
        now: Duration,
    ) -> Vec<&'a Image> {
        let is_kept = |image: &Image| image.pinned || image.repo_tags.iter().any(|tag| kept.contains(tag));
        let since = |image: &Image| self.known.get(&image.id).copied().unwrap_or((now, now));
        let may_go = |image: &&Image| {
            !used.contains(&image.id) && !is_kept(image) && now.saturating_sub(since(image).0) >= YOUNG
        };
        let mut found: Vec<&Image> = images.iter().filter(may_go).collect();
        found.sort_by_key(|image| (since(image).1, since(image).0));
        found
    }

    /// Looks now and then which images are in use.
    pub(super) async fn follow(&mut self, node: &Node) -> Result<(), RuntimeError> {
        if self.looked.is_none_or(|at| node.world.elapsed() - at >= LOOK) {
            self.look(node).await?;
        }
        Ok(())
    }

    /// All images, and those in use.
    async fn look(&mut self, node: &Node) -> Result<(Vec<Image>, BTreeSet<String>), RuntimeError> {
        let runtime: &dyn Runtime = &*node.runtime;
        let (images, now) = (runtime.list_images().await?, node.world.elapsed());
        let containers = runtime.list_containers(ContainerFilter::default()).await?;
        let mut used: BTreeSet<String> =
            containers.into_iter().flat_map(|container| [container.image_ref, container.image_id]).collect();
        for pod in node.pods.store().list() {
            for (_, volume) in facts::image_volumes(&pod) {
                let image = runtime.image_status(volume.reference.as_deref().unwrap_or_default()).await?;
                used.extend(image.map(|image| image.id));
            }
        }
        self.note(&images, &used, now);
        self.looked = Some(now);
        Ok((images, used))
    }

    /// Looks, and removes images until `enough` holds.
    pub(super) async fn reclaim(&mut self, node: &Node, mut enough: impl FnMut() -> bool) -> Result<(), RuntimeError> {
        let ((images, used), now) = (self.look(node).await?, node.world.elapsed());
        let kept = node.images.kept();
        let mut any = false;
        for image in self.superfluous(&images, &used, &kept, now) {
            if enough() {
                break;
            }
            node.runtime.remove_image(&image.id).await?;
            tracing::info!(image = image.id, names = ?image.repo_tags, bytes = image.size, "removed, since the disk fills up");
            any = true;
        }
        if any {
            node.images.changed();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_goes_first() {
        let image = |id: &str, tag: &str| Image { id: id.into(), repo_tags: vec![tag.into()], ..Image::default() };
        let images = [image("used", "u"), image("old", "o"), image("recent", "r"), image("kept", "k")];
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
        let at = Duration::from_secs;
        let mut seen = ImageUse::default();
        seen.note(&images, &set(&["used", "old", "recent"]), at(0));
        seen.note(&images, &set(&["used", "recent"]), at(100));
        let going = |seen: &ImageUse, now| -> Vec<String> {
            let found = seen.superfluous(&images, &set(&["used"]), &set(&["k"]), now);
            found.into_iter().map(|image| image.id.clone()).collect()
        };
        assert!(going(&seen, at(119)).is_empty(), "all too young");
        assert_eq!(going(&seen, at(120)), ["old", "recent"]);
    }
}
