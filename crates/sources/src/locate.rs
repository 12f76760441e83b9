//! Which folder holds the model: the one that was named, or the snapshot of a hub model in Hugging
//! Face's local cache.

use std::path::{Path, PathBuf};

use crate::pins::Pin;
use reranker_engine::weights::{check_packed, is_plain};
use reranker_engine::{Download, ModelError};

/// A model's folder or packed file, with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The model's folder, or its packed file.
    pub folder: PathBuf,
    /// The given name, else the hub's, else the folder's.
    pub name: String,
    /// The commit, or the given revision.
    pub revision: Option<String>,
    /// Times and bytes of its download, if there was one.
    pub download: Option<Download>,
}

/// Finds the model in `folder`, which then has `name`, or without a folder by `name` in
/// `hub_cache`.
pub fn locate(
    name: Option<&str>,
    folder: Option<&Path>,
    revision: Option<&str>,
    hub_cache: Option<&Path>,
) -> Result<Located, ModelError> {
    if let Some(folder) = folder {
        if !folder.exists() {
            let there = std::env::current_dir()
                .ok()
                .filter(|_| folder.is_relative());
            let there = there.map_or_else(String::new, |there| {
                format!(" in {}: set MODEL_DIR or MODEL_NAME", there.display())
            });
            return Err(ModelError::NotFound(format!(
                "MODEL_DIR: there is no folder or packed file {}{there}",
                folder.display()
            )));
        }
        if !folder.is_dir() {
            check_packed(folder)?;
        }
        let own_name = folder
            .canonicalize()
            .ok()
            .and_then(|path| path.file_name().map(|n| n.to_string_lossy().into_owned()))
            .unwrap_or_else(|| folder.display().to_string());
        return Ok(Located {
            folder: folder.to_owned(),
            name: name.map_or(own_name, str::to_owned),
            revision: revision.map(str::to_owned),
            download: None,
        });
    }
    let Some(name) = name else {
        return Err(ModelError::NotFound(
            "neither MODEL_NAME nor MODEL_DIR says which model to load".into(),
        ));
    };
    in_hub_cache(name, revision, hub_cache)
}

/// A model of the hub as people name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubName {
    /// `owner/name`.
    pub id: String,
    /// A branch, a tag or a commit, if the text has one.
    pub revision: Option<String>,
}

/// Reads `owner/name`, `owner/name@revision` and links to a model's page. The error for another
/// text says what it may be instead. A name without an owner is accepted if the cache holds such a
/// model.
pub fn hub_name(text: &str, hub_cache: Option<&Path>) -> Result<HubName, String> {
    let text = text.trim();
    let link = ["https://", "http://", "hf://"]
        .into_iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    let (name, revision) = match link {
        Some(rest) => {
            let path = [
                "huggingface.co/",
                "www.huggingface.co/",
                "hf.co/",
                "models/",
            ]
            .into_iter()
            .find_map(|host| rest.strip_prefix(host))
            .or_else(|| text.starts_with("hf://").then_some(rest));
            let Some(path) = path else {
                return Err("not a link to a model on huggingface.co".into());
            };
            let path = path.split(['?', '#']).next().unwrap_or_default();
            let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
            match parts[..] {
                [owner, name] => (format!("{owner}/{name}"), None),
                [
                    owner,
                    name,
                    "tree" | "blob" | "resolve" | "commit",
                    revision,
                    ..,
                ] => (format!("{owner}/{name}"), Some(revision.to_owned())),
                _ => return Err("not a link to a model's page".into()),
            }
        }
        None => match text.split_once('@') {
            Some((name, revision)) => (name.to_owned(), Some(revision.to_owned())),
            None => (text.trim_end_matches('/').to_owned(), None),
        },
    };
    let cached = |name: &str| {
        let folder = hub_cache.map(|cache| repository_folder(cache, name));
        folder.is_some_and(|folder| folder.is_dir())
    };
    if is_hub_id(&name) {
        if !cached(&name) && Path::new(&name).join("config.json").exists() {
            return Err(format!("a folder of this machine: set MODEL_DIR={name}"));
        }
        return Ok(HubName { id: name, revision });
    }
    if is_plain(&name) && cached(&name) {
        return Ok(HubName { id: name, revision });
    }
    if Path::new(text).exists() || text.starts_with(['/', '.', '~']) {
        return Err(format!("not a hub id but a path: set MODEL_DIR={text}"));
    }
    let known = owners(&name, hub_cache);
    Err(match known {
        Some(id) => format!("not a hub id of the form owner/name: do you mean {id}?"),
        None => "not a hub id of the form owner/name, and no folder of that name: set MODEL_DIR to the model's folder".into(),
    })
}

/// The id of a model that is known by this last part of it: from the program's pins, or in the
/// cache.
fn owners(name: &str, hub_cache: Option<&Path>) -> Option<String> {
    let end = format!("/{name}");
    if let Some(pinned) = Pin::names().into_iter().find(|id| id.ends_with(&end)) {
        return Some(pinned);
    }
    let end = format!("--{name}");
    let entries = std::fs::read_dir(hub_cache?).ok()?;
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find_map(|folder| {
            let owner = folder.strip_prefix("models--")?.strip_suffix(&end)?;
            Some(format!("{owner}/{name}"))
        })
}

/// `owner/name`.
pub(crate) fn is_hub_id(name: &str) -> bool {
    name.split('/').count() == 2 && name.split('/').all(is_plain)
}

/// Where a hub model is in Hugging Face's cache.
pub(crate) fn repository_folder(hub_cache: &Path, name: &str) -> PathBuf {
    hub_cache.join(format!("models--{}", name.replace('/', "--")))
}

fn in_hub_cache(
    name: &str,
    revision: Option<&str>,
    hub_cache: Option<&Path>,
) -> Result<Located, ModelError> {
    let missing = |what: String| {
        ModelError::NotFound(format!(
            "MODEL_NAME={name}: {what}; `reranker fetch {name}` downloads it, or set MODEL_DIR to its folder"
        ))
    };
    let given = name;
    let found = hub_name(name, hub_cache)
        .map_err(|reason| ModelError::NotFound(format!("MODEL_NAME={given}: {reason}")))?;
    let name = found.id.as_str();
    let revision = revision.or(found.revision.as_deref());
    let Some(hub_cache) = hub_cache else {
        return Err(missing("there is no Hugging Face cache to look in".into()));
    };
    let repository = repository_folder(hub_cache, name);
    // The pinned commit, where nobody asked for another and it is there.
    let pinned = Pin::built_in(name).map(|pin| pin.revision);
    let pinned = pinned.filter(|commit| repository.join("snapshots").join(commit).is_dir());
    let wanted = revision.or(pinned.as_deref()).unwrap_or("main");
    if !is_plain(wanted) {
        return Err(missing(format!("{wanted:?} is not a revision")));
    }
    // A branch or tag is a file that holds a commit; a commit names its snapshot itself.
    let commit = std::fs::read_to_string(repository.join("refs").join(wanted))
        .map_or_else(|_| wanted.to_owned(), |commit| commit.trim().to_owned());
    let folder = repository.join("snapshots").join(&commit);
    if !is_plain(&commit) || !folder.is_dir() {
        return Err(missing(format!(
            "revision {wanted} is not in {}",
            hub_cache.display()
        )));
    }
    Ok(Located {
        folder,
        name: name.to_owned(),
        revision: Some(commit),
        download: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_model_is_found_by_branch_and_by_commit() {
        let cache = tempfile::tempdir().expect("a folder");
        let repository = cache.path().join("models--BAAI--bge-reranker-base");
        std::fs::create_dir_all(repository.join("snapshots/abc123")).expect("made");
        std::fs::create_dir_all(repository.join("refs")).expect("made");
        std::fs::write(repository.join("refs/main"), "abc123\n").expect("written");
        let find = |name, revision| locate(Some(name), None, revision, Some(cache.path()));
        for revision in [None, Some("main"), Some("abc123")] {
            let found = find("BAAI/bge-reranker-base", revision).expect("found");
            assert_eq!(found.revision.as_deref(), Some("abc123"));
            assert!(found.folder.ends_with("snapshots/abc123"));
        }
        for (name, revision) in [
            ("BAAI/other", None),
            ("BAAI/bge-reranker-base", Some("v2")),
            ("BAAI/bge-reranker-base", Some("../..")),
            ("../etc", None),
            ("no-owner", None),
            ("/srv/models/x", None),
            ("https://example.org/BAAI/bge-reranker-base", None),
        ] {
            let error = find(name, revision).expect_err(name).to_string();
            assert!(
                error.contains("set MODEL_DIR") || error.contains("not a link to a model"),
                "{error}"
            );
        }
    }

    #[test]
    fn names_are_taken_as_people_write_them_or_what_is_meant_is_said() {
        let cache = tempfile::tempdir().expect("a folder");
        for folder in ["models--own--tiny", "models--bare"] {
            std::fs::create_dir_all(cache.path().join(folder)).expect("made");
        }
        let read =
            |text: &str| hub_name(text, Some(cache.path())).map(|name| (name.id, name.revision));
        let id = |id: &str, revision: Option<&str>| {
            Ok::<_, String>((id.to_owned(), revision.map(str::to_owned)))
        };
        for (text, expected) in [
            ("own/tiny", id("own/tiny", None)),
            ("own/tiny/", id("own/tiny", None)),
            ("own/tiny@v2", id("own/tiny", Some("v2"))),
            ("bare", id("bare", None)),
            ("https://huggingface.co/own/tiny", id("own/tiny", None)),
            ("https://huggingface.co/own/tiny/", id("own/tiny", None)),
            ("https://hf.co/own/tiny?x=1", id("own/tiny", None)),
            (
                "https://huggingface.co/own/tiny/tree/abc",
                id("own/tiny", Some("abc")),
            ),
            ("hf://own/tiny", id("own/tiny", None)),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        for (text, said) in [
            ("/srv/model", "set MODEL_DIR=/srv/model"),
            ("./model", "set MODEL_DIR=./model"),
            ("~/model", "set MODEL_DIR=~/model"),
            ("src", "set MODEL_DIR=src"),
            ("tiny", "do you mean own/tiny?"),
            ("bge-reranker-v2-m3", "do you mean BAAI/bge-reranker-v2-m3?"),
            ("unknown", "set MODEL_DIR"),
            ("https://example.org/own/tiny", "not a link to a model"),
            ("https://huggingface.co/own", "not a link to a model"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn a_pinned_commit_goes_before_the_branch_unless_it_is_asked_for() {
        let cache = tempfile::tempdir().expect("a folder");
        let name = "BAAI/bge-reranker-v2-m3";
        let repository = repository_folder(cache.path(), name);
        let pinned = Pin::built_in(name).expect("a pin").revision;
        std::fs::create_dir_all(repository.join("refs")).expect("made");
        std::fs::write(repository.join("refs/main"), "abc123").expect("written");
        let find = |revision| locate(Some(name), None, revision, Some(cache.path()));
        let commit = |revision| find(revision).expect("found").revision;
        std::fs::create_dir_all(repository.join("snapshots/abc123")).expect("made");
        assert_eq!(commit(None).as_deref(), Some("abc123"));
        std::fs::create_dir_all(repository.join("snapshots").join(&pinned)).expect("made");
        assert_eq!(commit(None), Some(pinned));
        assert_eq!(commit(Some("main")).as_deref(), Some("abc123"));
    }

    #[test]
    fn a_folder_goes_before_the_cache_and_a_name_only_names_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let found = locate(Some("a/b"), Some(folder.path()), None, None).expect("found");
        assert_eq!((found.name.as_str(), found.revision), ("a/b", None));
        assert!(locate(None, Some(Path::new("/no/such")), None, None).is_err());
    }
}
