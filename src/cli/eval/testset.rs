//! A retrieval test set in BEIR's layout, read for reranking: queries with their candidates' texts
//! and judged gains.
//!
//! Reads `corpus.jsonl` (`_id`, `title`, `text`), `queries.jsonl` (`_id`, `text`),
//! `qrels/<split>.tsv` (query, document, grade; or TREC's four columns) and a candidate file
//! (`query_id`, `candidates`: document ids, best first; or a TREC run). Keeps only the texts that
//! some candidate list needs or somebody judged. Every fault is told with file, line and field; ids
//! may be quoted, texts never are.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use serde_json::{Map, Value};

use crate::cli::Usage;
use crate::cli::output::note;
use reranker_json::mended;

const CORPUS: &str = "corpus.jsonl";
const QUERIES: &str = "queries.jsonl";
const QRELS: &str = "qrels";
/// Where no candidate file says which documents to rank, all are; beyond this that is no longer
/// meant.
const MOST_WITHOUT_CANDIDATES: usize = 2_000;

/// What of a set is read.
pub struct Selection<'a> {
    pub split: &'a str,
    /// The judgements, relative to the set's folder, where they are not `qrels/<split>.tsv`.
    pub qrels: Option<&'a Path>,
    /// The candidate file, relative to the set's folder, where it is not
    /// `candidates.<split>.jsonl`.
    pub candidates: Option<&'a Path>,
    /// Only the first queries of the candidate file.
    pub queries: Option<usize>,
}

#[derive(Debug)]
pub struct TestSet {
    pub name: String,
    /// Only queries with a relevant document: for the others no order is better than another.
    pub queries: Vec<TestQuery>,
    pub left_out: usize,
    /// Relevant documents that the corpus does not have.
    pub lost: usize,
    /// Whether the candidates came in an order that means something, and not as the corpus happens
    /// to lie.
    pub ordered: bool,
}

#[derive(Debug)]
pub struct TestQuery {
    pub id: String,
    pub text: Arc<str>,
    pub candidates: Vec<Arc<str>>,
    /// The candidates' gains, in their order.
    pub gains: Vec<u32>,
    /// Gains of all judged documents, candidates or not.
    pub judged: Vec<u32>,
}

impl TestSet {
    pub fn pairs(&self) -> usize {
        self.queries.iter().map(|q| q.candidates.len()).sum()
    }
}

impl Selection<'_> {
    fn judgements_of(&self, folder: &Path) -> PathBuf {
        match self.qrels {
            Some(file) => folder.join(file),
            None => folder.join(QRELS).join(format!("{}.tsv", self.split)),
        }
    }

    /// The candidate file that is named, or one that is there by its usual name.
    fn candidates_of(&self, folder: &Path) -> Option<PathBuf> {
        if let Some(file) = self.candidates {
            return Some(folder.join(file));
        }
        ["jsonl", "trec"]
            .map(|ending| folder.join(format!("candidates.{}.{ending}", self.split)))
            .into_iter()
            .find(|path| path.is_file())
    }
}

/// The folders of the sets called `wanted` below `roots`, or of all that have the split where none
/// is wanted. A root may be a set itself.
pub fn find(
    roots: &[PathBuf],
    wanted: &[String],
    selection: &Selection,
) -> anyhow::Result<Vec<PathBuf>> {
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for root in roots {
        let mut folders = Vec::new();
        if root.join(CORPUS).is_file() {
            folders.push(root.clone());
        } else {
            let entries = root
                .read_dir()
                .with_context(|| format!("{}", root.display()))?;
            for entry in entries {
                let path = entry.with_context(|| format!("{}", root.display()))?.path();
                if path.join(CORPUS).is_file() {
                    folders.push(path);
                }
            }
            folders.sort();
        }
        ensure!(
            !folders.is_empty(),
            "{}: neither it nor a folder in it holds {CORPUS}",
            root.display()
        );
        for folder in folders {
            let name = name_of(&folder);
            ensure!(
                found.iter().all(|(known, _)| *known != name),
                "{}: a second set of the name {name:?}",
                folder.display()
            );
            found.push((name, folder));
        }
    }
    if wanted.is_empty() {
        let (with, without): (Vec<_>, Vec<_>) = found
            .into_iter()
            .partition(|(_, folder)| selection.judgements_of(folder).is_file());
        let split = selection.split;
        let splits = |folders: &[(String, PathBuf)]| {
            let there: BTreeSet<String> =
                folders.iter().flat_map(|(_, it)| splits_of(it)).collect();
            match there.is_empty() {
                true => "there is none".to_owned(),
                false => format!("there is: {}", Vec::from_iter(there).join(", ")),
            }
        };
        if let (Some(file), true) = (selection.qrels, with.is_empty()) {
            return Err(Usage(format!("no set has the file {}", file.display())).into());
        }
        if with.is_empty() {
            let there = splits(&without);
            return Err(Usage(format!("no set has the split {split:?}; {there}")).into());
        }
        for set in without {
            let there = splits(std::slice::from_ref(&set));
            note!(
                "note: {} has no split {split:?} and is not measured; {there}",
                set.0
            );
        }
        return Ok(with.into_iter().map(|(_, folder)| folder).collect());
    }
    wanted
        .iter()
        .map(|name| {
            let place = found.iter().find(|(known, _)| known == name);
            place.map(|(_, folder)| folder.clone()).ok_or_else(|| {
                let known: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
                Usage(format!(
                    "there is no set {name:?}, only {}",
                    known.join(", ")
                ))
                .into()
            })
        })
        .collect()
}

fn name_of(folder: &Path) -> String {
    folder
        .canonicalize()
        .ok()
        .and_then(|path| path.file_name().map(|n| n.to_string_lossy().into_owned()))
        .unwrap_or_else(|| folder.display().to_string())
}

/// The splits that a set has judgements of.
fn splits_of(folder: &Path) -> Vec<String> {
    let entries = folder
        .join(QRELS)
        .read_dir()
        .into_iter()
        .flatten()
        .flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter_map(|name| name.strip_suffix(".tsv").map(str::to_owned))
        .collect()
}

/// A query with the ids of its candidates, and the line it comes from: of the candidate file, or of
/// the judgements where there is none.
struct Listed {
    line: usize,
    query: String,
    candidates: Vec<String>,
}

pub fn read(folder: &Path, selection: &Selection) -> anyhow::Result<TestSet> {
    let qrels = selection.judgements_of(folder);
    let judged = Judgements::read(&qrels)?;
    let candidates = selection.candidates_of(folder);
    let ordered = candidates.is_some();
    // `path` is where a list's line is.
    let (listed, path) = match candidates {
        Some(path) => (listed_candidates(&path, selection.queries)?, path),
        None => (whole_corpus(folder, &judged, selection)?, qrels.clone()),
    };
    let all = listed.len();
    if selection.queries.is_none() {
        let has: HashSet<&str> = listed.iter().map(|row| row.query.as_str()).collect();
        let judged = judged.queries.iter().map(|(query, _)| query);
        let without = judged.filter(|query| !has.contains(query.as_str())).count();
        if without > 0 {
            note!(
                "note: {}: {without} judged queries have no candidates and are not measured",
                path.display()
            );
        }
    }
    let listed: Vec<Listed> = listed
        .into_iter()
        .filter(|row| judged.relevant(&row.query))
        .collect();
    ensure!(
        !listed.is_empty(),
        "{}: none of {all} queries has a relevant document in the split {:?}",
        folder.display(),
        selection.split
    );
    let queries = texts(
        &folder.join(QUERIES),
        &listed.iter().map(|row| row.query.as_str()).collect(),
        query_text,
    )?;
    let documents = texts(
        &folder.join(CORPUS),
        &listed
            .iter()
            .flat_map(|row| &row.candidates)
            .chain(listed.iter().flat_map(|row| judged.relevant_to(&row.query)))
            .map(String::as_str)
            .collect(),
        document_text,
    )?;
    let unknown = |line: usize, field: String, id: &str, file: &str| {
        let place = Place { path: &path, line };
        place.wrong(&field, &format!("{id:?} is not in {file}"))
    };
    let relevant = listed.iter().flat_map(|row| judged.relevant_to(&row.query));
    let (there, lost): (Vec<String>, Vec<String>) =
        relevant.cloned().partition(|id| documents.contains_key(id));
    let left_out = all - listed.len();
    let queries = listed
        .into_iter()
        .map(|row| {
            let text = queries
                .get(&row.query)
                .ok_or_else(|| unknown(row.line, "query_id".into(), &row.query, QUERIES))?;
            let candidates = row
                .candidates
                .iter()
                .enumerate()
                .map(|(index, id)| {
                    documents.get(id).cloned().ok_or_else(|| {
                        unknown(row.line, format!("candidates[{index}]"), id, CORPUS)
                    })
                })
                .collect::<anyhow::Result<_>>()?;
            let grades = &judged.grades[&row.query];
            let gain = |id: &String| grades.get(id).copied().unwrap_or(0);
            Ok(TestQuery {
                text: Arc::clone(text),
                candidates,
                gains: row.candidates.iter().map(gain).collect(),
                judged: grades.values().copied().collect(),
                id: row.query,
            })
        })
        .collect::<anyhow::Result<_>>()?;
    if let Some(first) = lost.first() {
        let what = format!(
            "{}: {} of {} relevant documents are not in {CORPUS}, the first is {first:?}",
            qrels.display(),
            lost.len(),
            lost.len() + there.len()
        );
        ensure!(
            !there.is_empty(),
            "{what}: are these judgements of another corpus?"
        );
        note!("note: {what}; no model can find them, so nDCG@10 stays below 1");
    }
    Ok(TestSet {
        name: name_of(folder),
        queries,
        left_out,
        lost: lost.len(),
        ordered,
    })
}

fn listed_candidates(path: &Path, most: Option<usize>) -> anyhow::Result<Vec<Listed>> {
    let mut is_run = None;
    each_line(path, |_, line| {
        is_run.get_or_insert(!line.trim_start().starts_with('{'));
        Ok(())
    })?;
    if is_run == Some(true) {
        return trec_run(path, most);
    }
    let mut rows: Vec<Listed> = Vec::new();
    let mut seen = HashSet::new();
    each_line(path, |place, line| {
        if most.is_some_and(|most| rows.len() >= most) {
            return Ok(());
        }
        let object = place.object(line)?;
        let query = place.text(&object, "query_id")?.to_owned();
        if !seen.insert(query.clone()) {
            return Err(place.wrong("query_id", &format!("{query:?} was listed before")));
        }
        let Some(Value::Array(list)) = object.get("candidates") else {
            return Err(place.wrong("candidates", "is not a list"));
        };
        let mut candidates = Vec::with_capacity(list.len());
        let mut ids = HashSet::new();
        for (index, id) in list.iter().enumerate() {
            let field = || format!("candidates[{index}]");
            let Value::String(id) = id else {
                return Err(place.wrong(&field(), "is not a text"));
            };
            if !ids.insert(id) {
                return Err(place.wrong(&field(), &format!("{id:?} was listed before")));
            }
            candidates.push(id.clone());
        }
        rows.push(Listed {
            line: place.line,
            query,
            candidates,
        });
        Ok(())
    })?;
    Ok(rows)
}

/// The candidates of a TREC run (`q1 Q0 d7 1 14.9 bm25` a line), of which trec_eval too takes the
/// score and not the rank.
fn trec_run(path: &Path, most: Option<usize>) -> anyhow::Result<Vec<Listed>> {
    let mut rows: Vec<(Listed, Vec<(String, f64)>)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut seen = HashSet::new();
    each_line(path, |place, line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[query, _, document, _, score, _] = fields.as_slice() else {
            return Err(place.fault(&format!(
                "{} fields, expected a TREC run's six (query Q0 document rank score tag), or JSON lines",
                fields.len()
            )));
        };
        let score: f64 = match score.parse() {
            Ok(score) if f64::is_finite(score) => score,
            _ => return Err(place.wrong("score", "is not a number")),
        };
        if !seen.insert((query.to_owned(), document.to_owned())) {
            let what = format!("{document:?} was listed before");
            return Err(place.wrong("document", &what));
        }
        let at = *places.entry(query.to_owned()).or_insert_with(|| {
            let listed = Listed {
                line: place.line,
                query: query.to_owned(),
                candidates: Vec::new(),
            };
            rows.push((listed, Vec::new()));
            rows.len() - 1
        });
        rows[at].1.push((document.to_owned(), score));
        Ok(())
    })?;
    rows.truncate(most.unwrap_or(usize::MAX));
    let listed = rows.into_iter().map(|(mut listed, mut documents)| {
        // Equal scores stay in the order of the file.
        documents.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        listed.candidates = documents
            .into_iter()
            .map(|(document, _)| document)
            .collect();
        listed
    });
    Ok(listed.collect())
}

/// Every document for every judged query: what ranking means where nobody chose candidates.
fn whole_corpus(
    folder: &Path,
    judged: &Judgements,
    selection: &Selection,
) -> anyhow::Result<Vec<Listed>> {
    let path = folder.join(CORPUS);
    let mut documents = Vec::new();
    each_line(&path, |place, line| {
        let object = place.object(line)?;
        documents.push(place.text(&object, "_id")?.to_owned());
        Ok(())
    })?;
    if documents.len() > MOST_WITHOUT_CANDIDATES {
        bail!(
            "{}: {} documents and no candidate file: every query would be scored with every document, of which there may be {MOST_WITHOUT_CANDIDATES}; give candidates.{}.jsonl, or a TREC run by --candidates",
            folder.display(),
            documents.len(),
            selection.split
        );
    }
    let most = selection
        .queries
        .unwrap_or(usize::MAX)
        .min(judged.queries.len());
    note!(
        "note: {} has no candidate file: {most} queries are scored with each of {} documents, {} pairs",
        folder.display(),
        documents.len(),
        most * documents.len()
    );
    Ok(judged
        .queries
        .iter()
        .take(most)
        .map(|(query, line)| Listed {
            line: *line,
            query: query.clone(),
            candidates: documents.clone(),
        })
        .collect())
}

/// Who is how relevant to what.
struct Judgements {
    /// In the order of the file, with the line that names each first.
    queries: Vec<(String, usize)>,
    grades: HashMap<String, HashMap<String, u32>>,
}

impl Judgements {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let mut queries = Vec::new();
        let mut grades: HashMap<String, HashMap<String, u32>> = HashMap::new();
        let mut first = true;
        each_line(path, |place, line| {
            let tabbed: Vec<&str> = line.split('\t').collect();
            let spaced: Vec<&str> = line.split_whitespace().collect();
            let (query, document, grade) = match (tabbed.as_slice(), spaced.as_slice()) {
                (&[query, document, grade], _) => {
                    if std::mem::take(&mut first) {
                        // Without this a file without header would silently lose its first
                        // judgement.
                        return if grade.trim() == "score" {
                            Ok(())
                        } else {
                            Err(place.fault("expected the header query-id, corpus-id, score"))
                        };
                    }
                    (query, document, grade)
                }
                // TREC's form has no header.
                (_, &[query, _, document, grade]) => (query, document, grade),
                _ => {
                    return Err(place.fault(&format!(
                        "{} fields, expected query-id, corpus-id and score with tabs between, or TREC's four (query 0 document grade)",
                        tabbed.len().max(spaced.len())
                    )));
                }
            };
            first = false;
            let grade: i32 = grade
                .trim()
                .parse()
                .map_err(|_| place.wrong("score", "is not a whole number"))?;
            // Some collections mark spam with negative grades; it is as irrelevant as the rest.
            let gain = u32::try_from(grade).unwrap_or(0);
            let of_query = grades.entry(query.to_owned()).or_insert_with(|| {
                queries.push((query.to_owned(), place.line));
                HashMap::new()
            });
            match of_query.insert(document.to_owned(), gain) {
                Some(before) if before != gain => Err(place.wrong(
                    "score",
                    &format!("{grade}, but the same pair had {before} before"),
                )),
                _ => Ok(()),
            }
        })?;
        Ok(Self { queries, grades })
    }

    fn relevant(&self, query: &str) -> bool {
        self.relevant_to(query).next().is_some()
    }

    /// The documents that are relevant to a query.
    fn relevant_to(&self, query: &str) -> impl Iterator<Item = &String> {
        let grades = self.grades.get(query).into_iter().flatten();
        grades.filter(|(_, gain)| **gain > 0).map(|(id, _)| id)
    }
}

/// Texts of the objects whose `_id` is wanted, as `text` makes them.
fn texts(
    path: &Path,
    wanted: &HashSet<&str>,
    text: fn(&Place, &Map<String, Value>) -> anyhow::Result<String>,
) -> anyhow::Result<HashMap<String, Arc<str>>> {
    let mut found = HashMap::with_capacity(wanted.len());
    each_line(path, |place, line| {
        let object = place.object(line)?;
        let id = place.text(&object, "_id")?;
        if !wanted.contains(id) {
            return Ok(());
        }
        let text: Arc<str> = text(place, &object)?.into();
        match found.insert(id.to_owned(), text) {
            Some(_) => Err(place.wrong("_id", &format!("{id:?} was there before"))),
            None => Ok(()),
        }
    })?;
    Ok(found)
}

fn query_text(place: &Place, object: &Map<String, Value>) -> anyhow::Result<String> {
    let text = place.text(object, "text")?;
    if text.trim().is_empty() {
        return Err(place.wrong("text", "is empty"));
    }
    Ok(text.to_owned())
}

/// Title and text as one passage.
fn document_text(place: &Place, object: &Map<String, Value>) -> anyhow::Result<String> {
    let title = match object.get("title") {
        None | Some(Value::Null) => "",
        Some(_) => place.text(object, "title")?,
    };
    let text = place.text(object, "text")?;
    Ok(format!("{title} {text}").trim().to_owned())
}

/// Where in which file a fault is.
struct Place<'a> {
    path: &'a Path,
    line: usize,
}

impl Place<'_> {
    fn fault(&self, what: &str) -> anyhow::Error {
        anyhow::anyhow!("{}, line {}: {what}", self.path.display(), self.line)
    }

    fn wrong(&self, field: &str, what: &str) -> anyhow::Error {
        self.fault(&format!("{field}: {what}"))
    }

    fn object(&self, line: &str) -> anyhow::Result<Map<String, Value>> {
        serde_json::from_slice(&mended(line.as_bytes()))
            .map_err(|error| self.fault(&format!("not a JSON object (column {})", error.column())))
    }

    fn text<'o>(&self, object: &'o Map<String, Value>, field: &str) -> anyhow::Result<&'o str> {
        match object.get(field) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(self.wrong(field, "is not a text")),
            None => Err(self.wrong(field, "is missing")),
        }
    }
}

/// Calls `each` with every line that is not blank.
fn each_line(
    path: &Path,
    mut each: impl FnMut(&Place, &str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| format!("{}", path.display()))?;
    for (index, line) in BufReader::new(file).lines().enumerate() {
        let place = Place {
            path,
            line: index + 1,
        };
        let line = line.map_err(|error| place.fault(&error.to_string()))?;
        // Editors of one system put a byte order mark before the first line.
        let line = match index {
            0 => line.strip_prefix('\u{feff}').unwrap_or(&line),
            _ => &line,
        };
        if !line.trim().is_empty() {
            each(&place, line)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 4] = [
        (
            CORPUS,
            "{\"_id\":\"d1\",\"title\":\"Bread\",\"text\":\"Flour and water.\"}\n\
             {\"_id\":\"d2\",\"title\":\"\",\"text\":\" Tea. \"}\n\n\
             {\"_id\":\"d3\",\"text\":\"Salt.\"}\n",
        ),
        (
            QUERIES,
            "{\"_id\":\"q1\",\"text\":\"bread?\"}\n{\"_id\":\"q2\",\"text\":\"tea?\"}\n",
        ),
        (
            "qrels/test.tsv",
            "query-id\tcorpus-id\tscore\nq2\td2\t0\nq1\td1\t2\nq1\td3\t1\nq1\td2\t-1\n",
        ),
        (
            "candidates.test.jsonl",
            "{\"query_id\":\"q2\",\"candidates\":[\"d2\",\"d1\"]}\n{\"query_id\":\"q1\",\"candidates\":[\"d2\",\"d1\"],\"n_bm25\":2}\n",
        ),
    ];

    /// The good set with one file's text replaced, or without that file.
    fn set(changed: Option<(&str, Option<&str>)>) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("qrels")).expect("a folder");
        for (name, text) in GOOD {
            let text = match changed {
                Some((other, new)) if other == name => new,
                _ => Some(text),
            };
            if let Some(text) = text {
                std::fs::write(folder.path().join(name), text).expect("written");
            }
        }
        folder
    }

    fn test(queries: Option<usize>) -> Selection<'static> {
        Selection {
            split: "test",
            qrels: None,
            candidates: None,
            queries,
        }
    }

    #[test]
    fn titles_join_texts_gains_follow_candidates_and_queries_without_relevant_ones_are_left_out() {
        let folder = set(None);
        let found = read(folder.path(), &test(None)).expect("a good set");
        assert_eq!((found.queries.len(), found.left_out), (1, 1));
        assert!(found.ordered);
        let query = &found.queries[0];
        assert_eq!((query.id.as_str(), &*query.text), ("q1", "bread?"));
        let texts: Vec<&str> = query.candidates.iter().map(|text| &**text).collect();
        assert_eq!(texts, ["Tea.", "Bread Flour and water."]);
        assert_eq!(query.gains, [0, 2]);
        let mut judged = query.judged.clone();
        judged.sort_unstable();
        assert_eq!(judged, [0, 1, 2]);
        // The first line is the query that is left out.
        let error = read(folder.path(), &test(Some(1))).expect_err("nothing is left");
        assert!(error.to_string().contains("none of 1 queries"), "{error}");
    }

    #[test]
    fn without_a_candidate_file_the_whole_corpus_is_ranked() {
        let folder = set(Some(("candidates.test.jsonl", None)));
        let found = read(folder.path(), &test(None)).expect("a good set");
        assert!(!found.ordered);
        assert_eq!(found.queries[0].gains, [2, 0, 1]);
        assert_eq!(found.pairs(), 3);
        let named = Selection {
            candidates: Some(Path::new("other.jsonl")),
            ..test(None)
        };
        let error = read(folder.path(), &named).expect_err("it was named and is not there");
        assert!(error.to_string().ends_with("other.jsonl"), "{error}");
        let many: String = (0..=MOST_WITHOUT_CANDIDATES)
            .map(|id| format!("{{\"_id\":\"d{id}\",\"text\":\"t\"}}\n"))
            .collect();
        std::fs::write(folder.path().join(CORPUS), many).expect("written");
        let error = read(folder.path(), &test(None)).expect_err("too many");
        assert!(error.to_string().contains("no candidate file"), "{error}");
    }

    #[test]
    fn every_fault_is_told_with_file_line_and_field() {
        let rows = [
            (
                CORPUS,
                "{\"_id\":\"d1\",\"text\":7}\n",
                "corpus.jsonl, line 1: text: is not a text",
            ),
            (
                CORPUS,
                "\n{\"text\":\"a\"}\n",
                "corpus.jsonl, line 2: _id: is missing",
            ),
            (
                CORPUS,
                "secret\n",
                "corpus.jsonl, line 1: not a JSON object (column 1)",
            ),
            (
                CORPUS,
                "{\"_id\":\"d1\",\"text\":\"a\"}\n{\"_id\":\"d1\",\"text\":\"b\"}\n",
                "corpus.jsonl, line 2: _id: \"d1\" was there before",
            ),
            (
                CORPUS,
                "{\"_id\":\"d2\",\"text\":\"a\"}\n",
                "candidates.test.jsonl, line 2: candidates[1]: \"d1\" is not in corpus.jsonl",
            ),
            (
                QUERIES,
                "{\"_id\":\"q2\",\"text\":\"a\"}\n",
                "candidates.test.jsonl, line 2: query_id: \"q1\" is not in queries.jsonl",
            ),
            (
                QUERIES,
                "{\"_id\":\"q1\",\"text\":\" \"}\n",
                "queries.jsonl, line 1: text: is empty",
            ),
            (
                "qrels/test.tsv",
                "q1\td1\t1\n",
                "test.tsv, line 1: expected the header query-id, corpus-id, score",
            ),
            (
                "qrels/test.tsv",
                "query-id\tcorpus-id\tscore\nq1 d1 1\n",
                "test.tsv, line 2: 3 fields",
            ),
            (
                "qrels/test.tsv",
                "query-id\tcorpus-id\tscore\nq1\td1\tyes\n",
                "test.tsv, line 2: score: is not a whole number",
            ),
            (
                "qrels/test.tsv",
                "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td1\t2\n",
                "test.tsv, line 3: score: 2, but the same pair had 1 before",
            ),
            (
                "candidates.test.jsonl",
                "{\"query_id\":\"q1\",\"candidates\":\"d1\"}\n",
                "candidates.test.jsonl, line 1: candidates: is not a list",
            ),
            (
                "candidates.test.jsonl",
                "{\"query_id\":\"q1\",\"candidates\":[\"d1\",2]}\n",
                "candidates.test.jsonl, line 1: candidates[1]: is not a text",
            ),
            (
                "candidates.test.jsonl",
                "{\"query_id\":\"q1\",\"candidates\":[\"d1\",\"d1\"]}\n",
                "candidates.test.jsonl, line 1: candidates[1]: \"d1\" was listed before",
            ),
            (
                "candidates.test.jsonl",
                "{\"query_id\":\"q1\",\"candidates\":[]}\n{\"query_id\":\"q1\",\"candidates\":[]}\n",
                "candidates.test.jsonl, line 2: query_id: \"q1\" was listed before",
            ),
        ];
        let of_runs = [
            (
                "candidates.test.jsonl",
                "q1 Q0 d1 1 2.5\n",
                "candidates.test.jsonl, line 1: 5 fields, expected a TREC run's six",
            ),
            (
                "candidates.test.jsonl",
                "q1 Q0 d1 1 2.5 a\nq1 Q0 d2 2 NaN a\n",
                "candidates.test.jsonl, line 2: score: is not a number",
            ),
            (
                "candidates.test.jsonl",
                "q1 Q0 d1 1 2.5 a\nq1 Q0 d1 2 2 a\n",
                "candidates.test.jsonl, line 2: document: \"d1\" was listed before",
            ),
            (
                "qrels/test.tsv",
                "q1 0 d1 two\n",
                "test.tsv, line 1: score: is not a whole number",
            ),
            (
                "qrels/test.tsv",
                "query-id\tcorpus-id\tscore\nq1\td8\t1\nq1\td9\t1\n",
                "test.tsv: 2 of 2 relevant documents are not in corpus.jsonl, the first is",
            ),
        ];
        for (file, text, says) in rows.into_iter().chain(of_runs) {
            let folder = set(Some((file, Some(text))));
            let error = read(folder.path(), &test(None)).expect_err(says);
            let error = format!("{error:#}");
            assert!(error.contains(says), "{error}\nlacks {says}");
            assert!(!error.contains("secret"), "{error}");
        }
        for (file, _) in &GOOD[..3] {
            let folder = set(Some((file, None)));
            let error = read(folder.path(), &test(None)).expect_err("a file is missing");
            assert!(format!("{error:#}").contains(file), "{error:#}");
        }
    }

    #[test]
    fn a_query_that_is_only_judged_is_blamed_on_the_judgements() {
        let qrels = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq9\td1\t1\n";
        let folder = set(Some(("qrels/test.tsv", Some(qrels))));
        std::fs::remove_file(folder.path().join("candidates.test.jsonl")).expect("removed");
        let error = read(folder.path(), &test(None)).expect_err("q9 is unknown");
        let says = "qrels/test.tsv, line 3: query_id: \"q9\" is not in queries.jsonl";
        assert!(error.to_string().ends_with(says), "{error}");
    }

    #[test]
    fn relevant_documents_that_are_nowhere_are_counted() {
        let qrels = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td9\t1\nq1\td8\t0\n";
        let folder = set(Some(("qrels/test.tsv", Some(qrels))));
        let found = read(folder.path(), &test(None)).expect("one is there");
        assert_eq!(found.lost, 1);
        assert_eq!(read(set(None).path(), &test(None)).expect("good").lost, 0);
    }

    #[test]
    fn trec_files_say_the_same_as_beirs() {
        let beir = read(set(None).path(), &test(None)).expect("a good set");
        let qrels = "q2 0 d2 0\nq1 0 d1 2\nq1\t0\td3\t1\nq1 0 d2 -1\n";
        // By score, whatever the rank says; equal ones in the order of the file.
        let run = "\u{feff}q2 Q0 d2 1 9 bm25\nq1 Q0 d1 1 1.5 bm25\nq2 Q0 d1 2 9 bm25\nq1 Q0 d2 2 2e3 bm25\n";
        let folder = set(Some(("qrels/test.tsv", Some(qrels))));
        let named = folder.path().join("candidates.test.jsonl");
        for name in ["candidates.test.jsonl", "candidates.test.trec", "bm25.run"] {
            let _ = std::fs::remove_file(&named);
            std::fs::write(folder.path().join(name), run).expect("written");
            let selection = Selection {
                candidates: (name == "bm25.run").then_some(Path::new(name)),
                ..test(None)
            };
            let trec = read(folder.path(), &selection).expect(name);
            let texts = |set: &TestSet| -> Vec<Vec<String>> {
                let lists = set.queries.iter().map(|query| &query.candidates);
                lists
                    .map(|list| list.iter().map(|text| text.to_string()).collect())
                    .collect()
            };
            assert_eq!(texts(&trec), texts(&beir), "{name}");
            assert!(trec.ordered);
            assert_eq!(trec.queries[0].gains, beir.queries[0].gains);
        }
    }

    #[test]
    fn sets_are_found_by_name_or_all_that_have_the_split() {
        let root = tempfile::tempdir().expect("a folder");
        for name in ["b", "a", "c"] {
            let folder = root.path().join(name);
            std::fs::create_dir_all(folder.join("qrels")).expect("a folder");
            std::fs::write(folder.join(CORPUS), "").expect("written");
            if name != "c" {
                std::fs::write(test(None).judgements_of(&folder), "").expect("written");
            }
        }
        std::fs::create_dir(root.path().join("notes")).expect("a folder");
        let roots = [root.path().to_owned()];
        let names = |wanted: &[&str]| -> anyhow::Result<Vec<String>> {
            let wanted: Vec<String> = wanted.iter().map(|name| name.to_string()).collect();
            let found = find(&roots, &wanted, &test(None))?;
            Ok(found.iter().map(|folder| name_of(folder)).collect())
        };
        assert_eq!(names(&[]).expect("some"), ["a", "b"]);
        assert_eq!(names(&["c", "a"]).expect("some"), ["c", "a"]);
        let error = names(&["d"]).expect_err("no such set").to_string();
        assert_eq!(error, "there is no set \"d\", only a, b, c");
        let alone = find(&[root.path().join("a")], &[], &test(None)).expect("a set itself");
        assert_eq!(alone, [root.path().join("a")]);
        let twice = find(&[roots[0].clone(), root.path().join("a")], &[], &test(None));
        assert!(twice.expect_err("twice").to_string().contains("second set"));
        let none = find(&[root.path().join("notes")], &[], &test(None));
        assert!(none.expect_err("none").to_string().contains(CORPUS));
        let dev = Selection {
            split: "dev",
            ..test(None)
        };
        let error = find(&roots, &[], &dev)
            .expect_err("no such split")
            .to_string();
        assert_eq!(error, "no set has the split \"dev\"; there is: test");
    }
}
