//! What the README says of variables, routes and error codes is what the program has.

use std::path::Path;

fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    std::fs::read_to_string(path).expect("README.md")
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
