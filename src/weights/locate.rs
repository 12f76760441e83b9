//! Which folder holds the model: the one that was named, or the snapshot of a hub model in Hugging Face's local cache.

use std::path::{Path, PathBuf};

use super::{Download, Pin};
use crate::error::ModelError;

/// A model's folder or packed file, and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    pub folder: PathBuf,
    pub name: String,
    pub revision: Option<String>,
    /// What it took to bring it here, where it was not here.
    pub download: Option<Download>,
}

/// `folder` where it is given (then `name` is only what to call it); else `name` in `hub_cache`.
pub fn locate(
    name: Option<&str>,
    folder: Option<&Path>,
    revision: Option<&str>,
    hub_cache: Option<&Path>,
) -> Result<Located, ModelError> {
    if let Some(folder) = folder {
        if !folder.exists() {
            return Err(ModelError::NotFound(format!(
                "MODEL_DIR: there is no folder or packed file {}",
                folder.display()
            )));
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

/// `owner/name`.
pub fn is_hub_id(name: &str) -> bool {
    name.split('/').count() == 2 && name.split('/').all(is_plain)
}

/// Whether a name from outside can be one part of a path.
pub fn is_plain(part: &str) -> bool {
    !part.is_empty()
        && part != ".."
        && part != "."
        && part
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// Where a hub model is in Hugging Face's cache.
pub fn repository_folder(hub_cache: &Path, name: &str) -> PathBuf {
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
    if !is_hub_id(name) {
        return Err(missing("not a hub id of the form owner/name".into()));
    }
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
        ] {
            let error = find(name, revision).expect_err(name).to_string();
            assert!(error.contains("set MODEL_DIR"), "{error}");
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
