//! The facts that all kinds of entities share: an id, a workspace, versions, a topic, and the keys that must be
//! unique. Collections and the reading of topics need no more than these; the rules of a change are in
//! [`EntityKind`](super::draft::EntityKind).

use std::{
    fmt::{Debug, Display},
    hash::Hash,
    str::FromStr,
    sync::Arc,
};

use schemas::{Timestamp, Topic, WorkspaceId, fired::FiredSubject};
use serde::{Serialize, de::DeserializeOwned};
use service::problem::{Kind, Problem};

/// An entity that the control plane keeps, as its record has it.
pub(crate) trait Entity:
    Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// The id of the entity, which is the key of its record.
    type Id: Ord + Clone + Debug + Display + FromStr<Err: Display> + Send + Sync;
    /// A key that only one entity of the kind may have.
    type UniqueKey: Clone + Debug + Eq + Hash + Send + Sync;

    /// The noun for the kind in sentences.
    const NAME: &'static str;
    /// The topic of the records.
    const TOPIC: Topic;
    /// The topics with further records under the entity's id, which are deleted with it.
    const DEPENDENT_TOPICS: &'static [Topic] = &[];

    /// Returns the id.
    fn id(&self) -> Self::Id;

    /// Returns the workspace that the entity belongs to, or nothing for an entity of the whole installation.
    fn workspace(&self) -> Option<&WorkspaceId>;

    /// Returns the number of the version, from 1.
    fn revision(&self) -> u64;

    /// Returns the subject of the facts that the watch tells of the entity; nothing for a kind that is not watched.
    fn fired_subject(&self) -> Option<FiredSubject> {
        None
    }

    /// Tells whether callers in `workspace` may see the entity.
    fn is_visible_from(&self, workspace: &WorkspaceId) -> bool {
        self.workspace().is_none_or(|own| own == workspace)
    }

    /// Returns the unique keys that the entity has.
    fn unique_keys(&self) -> Vec<Self::UniqueKey> {
        Vec::new()
    }

    /// Returns the version that stays on the topic after the entity was deleted, for the readers that must still know of
    /// it; nothing where the record is deleted, too.
    fn retired(&self, _at: Timestamp) -> Option<Self> {
        None
    }

    /// Tells whether this is the version that stays of a deleted entity.
    fn is_retired(&self) -> bool {
        false
    }

    /// Returns the problem of another entity that wants a key of `owner`.
    fn conflict(key: &Self::UniqueKey, owner: &Self::Id) -> Problem;

    /// Returns the entity without the key, which another entity takes over; nothing where the owner keeps it.
    fn release_key(&self, _key: &Self::UniqueKey, _at: Timestamp) -> Option<Self> {
        None
    }
}

/// The parts of `impl Entity` that differ between kinds of a workspace only in their types and words.
macro_rules! workspace_entity {
    ($id:ty, $name:literal, $topic:expr) => {
        type Id = $id;

        const NAME: &'static str = $name;
        const TOPIC: schemas::Topic = $topic;

        fn id(&self) -> $id {
            self.id
        }

        fn workspace(&self) -> Option<&schemas::WorkspaceId> {
            Some(&self.workspace)
        }

        fn revision(&self) -> u64 {
            self.revision
        }
    };
}
pub(crate) use workspace_entity;

/// The unique key of a kind that has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum NoUniqueKey {}

/// The characters of an id that an ETag has.
const ETAG_CHARS: usize = 8;

/// The version that an ETag names: `3-0123ABCD`. The end of the id is in it, since an entity that was deleted and made
/// again has the revisions of the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VersionTag {
    revision: u64,
    /// The end of the entity's id; nothing where a caller writes the revision alone, whichever entity has it.
    id_end: Option<String>,
}

impl VersionTag {
    /// Returns the tag of a version.
    pub(crate) fn of<T: Entity>(entity: &T) -> Self {
        let id = entity.id().to_string();
        // Ids are ASCII.
        let id_end = id[id.len().saturating_sub(ETAG_CHARS)..].to_owned();
        Self { revision: entity.revision(), id_end: Some(id_end) }
    }

    /// Reads a tag; nothing where it is none of ours.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (revision, id_end) = match text.split_once('-') {
            Some((revision, id_end)) => (revision, Some(id_end.to_owned())),
            None => (text, None),
        };
        Some(Self { revision: revision.parse().ok()?, id_end })
    }

    /// Tells whether the tag names this version.
    pub(crate) fn names<T: Entity>(&self, entity: &T) -> bool {
        let own = Self::of(entity);
        self.revision == own.revision && (self.id_end.is_none() || self.id_end == own.id_end)
    }
}

impl Display for VersionTag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.revision)?;
        self.id_end.as_ref().map_or(Ok(()), |id_end| write!(f, "-{id_end}"))
    }
}

/// The versions of an entity for which a caller asks for a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The change is made whatever there is.
    #[default]
    Anything,
    /// `If-Match: *`: there must be an entity.
    Existing,
    /// `If-Match`: the entity must be one of these versions.
    OneOf(Vec<VersionTag>),
    /// `If-None-Match: *`: there must be no entity.
    Nothing,
    /// `If-None-Match`: the entity must be none of these versions.
    NoneOf(Vec<VersionTag>),
}

impl Expected {
    /// Checks the entity that was found.
    ///
    /// # Errors
    /// When it is not as the caller expects.
    pub(crate) fn check<T: Entity>(&self, found: Option<&T>) -> Result<(), Problem> {
        let names = |tags: &[VersionTag], found: &T| tags.iter().any(|tag| tag.names(found));
        let detail = match (self, found) {
            (Self::Anything, _) | (Self::Existing, Some(_)) | (Self::Nothing | Self::NoneOf(_), None) => return Ok(()),
            (Self::NoneOf(tags), Some(found)) if !names(tags, found) => return Ok(()),
            (Self::OneOf(tags), Some(found)) if names(tags, found) => return Ok(()),
            (Self::OneOf(_) | Self::NoneOf(_), Some(found)) => {
                let tag = VersionTag::of(found);
                format!(
                    "This {} is at revision {}, and its ETag is \"{tag}\": read it again",
                    T::NAME,
                    found.revision()
                )
            }
            (Self::OneOf(_) | Self::Existing, None) => format!("There is no such {}, so If-Match fails", T::NAME),
            (Self::Nothing, Some(found)) => {
                format!("There is a {} {} already, so If-None-Match fails", T::NAME, found.id())
            }
        };
        Err(Problem::new(Kind::Changed, detail))
    }
}

/// Returns the entity if callers in the workspace may see it and it is as they expect.
pub(crate) fn expect<T: Entity>(
    found: Option<Arc<T>>,
    id: &T::Id,
    workspace: &WorkspaceId,
    expected: &Expected,
) -> Result<Arc<T>, Problem> {
    let found =
        found.filter(|found| found.is_visible_from(workspace)).ok_or_else(|| not_found::<T>(&id.to_string()))?;
    expected.check(Some(&*found))?;
    Ok(found)
}

/// Returns the problem of a caller who names an entity that does not exist in the caller's workspace.
pub(crate) fn not_found<T: Entity>(id: &str) -> Problem {
    Problem::new(Kind::NotFound, format!("There is no {} {id}", T::NAME))
}

/// Parses the id in a path. A text that cannot be an id names an entity that does not exist.
pub(crate) fn parse_id<T: Entity>(text: &str) -> Result<T::Id, Problem> {
    text.parse().map_err(|_| not_found::<T>(&text.chars().take(64).collect::<String>()))
}
