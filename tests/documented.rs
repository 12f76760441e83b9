//! What the README says of variables and error codes is what the program has, and images are what their digests say.

use std::path::Path;

fn text(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn readme() -> String {
    text("README.md")
}

#[test]
fn the_readmes_table_of_variables_is_the_programs() {
    let table = reranker::config::markdown_table();
    assert!(
        readme().contains(&table),
        "README.md lacks this table (`reranker variables` prints it):\n{table}"
    );
}

#[test]
fn the_readme_lists_every_error_code() {
    let readme = readme();
    for code in reranker::http::ERROR_CODES {
        assert!(
            readme.contains(&format!("`{code}`")),
            "{code} is not in README.md"
        );
    }
}

#[test]
fn base_images_are_named_by_digest_and_toolchains_are_one() {
    let named = |file: &str| -> Vec<String> {
        let images = text(file);
        let images = images.lines().filter_map(|line| {
            let (name, image) = line.strip_prefix("ARG ")?.split_once('=')?;
            name.ends_with("_IMAGE").then(|| image.to_owned())
        });
        images.collect()
    };
    let (service, gpu) = (named("Dockerfile.lambda"), named("Dockerfile.gpu"));
    assert_eq!((service.len(), gpu.len()), (1, 3));
    assert_eq!(service[0], gpu[0], "both are built by one toolchain");
    for image in service.iter().chain(&gpu) {
        let digest = image.split_once("@sha256:").map(|(_, digest)| digest);
        let whole =
            digest.is_some_and(|d| d.len() == 64 && d.bytes().all(|b| b.is_ascii_hexdigit()));
        assert!(whole, "{image} is not named by digest");
    }
}
