//! The control groups that this process is in.

use std::path::{Path, PathBuf};

/// Where Linux shows them.
pub const ROOT: &str = "/sys/fs/cgroup";

/// A group's folder, in the layout of either version.
#[derive(Debug, PartialEq, Eq)]
pub enum Group {
    V1(PathBuf),
    V2(PathBuf),
}

/// This process's own list of them.
pub fn own() -> String {
    std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default()
}

/// Of such a list, the groups that `controller` holds the process to, each with those above it.
pub fn groups(list: &str, root: &Path, controller: &str) -> Vec<Group> {
    let mut found = Vec::new();
    for line in list.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (root, kind): (_, fn(PathBuf) -> Group) = match controllers {
            "" => (root.to_owned(), Group::V2),
            many if many.split(',').any(|one| one == controller) => {
                (root.join(controller), Group::V1)
            }
            _ => continue,
        };
        // In a container the group's path may be the host's, of which only the last part can be
        // seen, at the root.
        let group = root.join(group.trim_start_matches('/'));
        let folders = group.ancestors().take_while(|f| f.starts_with(&root));
        found.extend(folders.map(|folder| kind(folder.to_owned())));
    }
    found
}
