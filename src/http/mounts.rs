//! Which path speaks which dialect, and what the OpenAPI document says of it: both from one table, the document from the dialects' own
//! types.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use axum::Router;
use axum::routing::{MethodRouter, get, post};
use http::StatusCode;
use utoipa::openapi::content::{Content, ContentBuilder};
use utoipa::openapi::header::Header;
use utoipa::openapi::path::{
    HttpMethod, Operation, OperationBuilder, ParameterBuilder, ParameterIn,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{AnyOfBuilder, Components, ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{OpenApi, Ref, RefOr, Required};
use utoipa::{PartialSchema, ToSchema};

use super::error_format::{ErrorFormat, ErrorFormats};
use super::score::{self, Estimated};
use super::status::{Answered, answered};
use super::{App, auth, health};
use reranker_dialects::{
    Dialect, azure, bedrock, cohere, common, infinity, jina, llama_cpp, mixedbread, native,
    pinecone, tei, vllm, voyage,
};
use reranker_domain::Code;

/// Names of the ways to give a key.
const BEARER: &str = "bearer";
const API_KEY: &str = "api_key";

/// Tags of what is no dialect's alone, in the order of the document.
const NATIVE: &str = "rerank";
const SHARED: &str = "shared paths";
const PAGES: &str = "docs";
const TAGS: [(&str, &str); 3] = [
    (NATIVE, "Rank, score pairs, and ask what that would take"),
    (
        SHARED,
        "Other services' paths, of which several have the same",
    ),
    ("health", "For probes, monitoring and people"),
];

/// What can go wrong with a scoring request: the statuses, each with the codes that have it.
static FAILURES: LazyLock<BTreeMap<StatusCode, String>> = LazyLock::new(|| {
    let mut names: BTreeMap<StatusCode, BTreeSet<&str>> = BTreeMap::new();
    for &code in Code::ALL {
        if let Answered::Scoring(status) = answered(code) {
            names.entry(status).or_default().insert(code.name());
        }
    }
    let describe = |(status, names): (StatusCode, BTreeSet<&str>)| {
        let reason = status.canonical_reason().unwrap_or_default();
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        (status, format!("{reason}: {}", names.join(", ")))
    };
    names.into_iter().map(describe).collect()
});

/// Routes, their error formats and their documentation, as they are added.
pub struct Mounts {
    pub router: Router<App>,
    pub error_formats: ErrorFormats,
    /// Names of the bodies' fields.
    pub fields: BTreeSet<String>,
    pub api: OpenApi,
}

impl Mounts {
    /// Every scoring route on top of what `router` and `api` have already.
    pub fn add(router: Router<App>, api: OpenApi) -> Self {
        let mut mounts = Self {
            router,
            error_formats: ErrorFormats::default(),
            fields: azure::SNAKE_CASE.map(String::from).into(),
            api,
        };
        for (tag, description) in TAGS {
            mounts.tag(tag, description);
        }
        // The last is SageMaker's, for whatever its caller sends.
        for path in [
            "/rerank",
            "/v1/rerank",
            "/reranking",
            "/v1/reranking",
            "/invocations",
        ] {
            mounts.shared(path);
        }
        mounts.estimate("/estimate");
        mounts.one::<native::Batch>(&["/rerank/batch"]);
        mounts.one::<cohere::V2>(&["/v2/rerank", "/cohere/v2/rerank"]);
        mounts.one::<vllm::Score>(&["/score", "/v1/score", "/vllm/score", "/vllm/v1/score"]);
        mounts.one::<azure::Azure>(&[
            "/inference/semanticReranking",
            "/azure/inference/semanticReranking",
        ]);
        mounts.one::<tei::Tei>(&["/tei/rerank"]);
        mounts.one::<tei::Predict>(&["/predict", "/tei/predict"]);
        mounts.one::<cohere::V1>(&["/cohere/v1/rerank"]);
        mounts.one::<jina::Jina>(&["/jina/v1/rerank"]);
        mounts.one::<vllm::Rerank>(&["/vllm/rerank", "/vllm/v1/rerank", "/vllm/v2/rerank"]);
        mounts.one::<infinity::Infinity>(&["/infinity/rerank"]);
        mounts.one::<llama_cpp::LlamaCpp>(&[
            "/llamacpp/rerank",
            "/llamacpp/reranking",
            "/llamacpp/v1/rerank",
            "/llamacpp/v1/reranking",
        ]);
        mounts.one::<voyage::Voyage>(&["/voyage/rerank", "/voyage/v1/rerank"]);
        mounts
            .one::<mixedbread::Mixedbread>(&["/mixedbread/reranking", "/mixedbread/v1/reranking"]);
        mounts.one::<pinecone::Pinecone>(&["/pinecone/rerank"]);
        mounts.one::<bedrock::Bedrock>(&["/bedrock/rerank"]);
        mounts.invoke(&["/model/{model}/invoke", "/bedrock/model/{model}/invoke"]);
        // TEI's clients ask below their base address what is served there.
        mounts.also::<tei::Tei>("/info", "/tei/info", get(health::info));
        // As OpenAI's and Cohere's clients ask below theirs.
        let models = || get(health::models);
        mounts.also::<native::One>("/v1/models", "/models", models());
        mounts.also::<cohere::V1>("/v1/models", "/cohere/v1/models", models());
        mounts.also::<jina::Jina>("/v1/models", "/jina/v1/models", models());
        mounts.also::<vllm::Rerank>("/v1/models", "/vllm/v1/models", models());
        mounts.also::<infinity::Infinity>("/v1/models", "/infinity/models", models());
        mounts.also::<llama_cpp::LlamaCpp>("/v1/models", "/llamacpp/models", models());
        mounts.also::<llama_cpp::LlamaCpp>("/v1/models", "/llamacpp/v1/models", models());
        // SageMaker's probe.
        mounts.also::<native::One>("/ready", "/ping", get(health::ready));
        mounts.tag(PAGES, "This page, and the playground");
        mounts.common();
        mounts
    }

    /// Puts a tag behind those that there are: pages show them in this order.
    fn tag(&mut self, name: &str, description: &str) {
        let tags = self.api.tags.get_or_insert_default();
        if tags.iter().all(|tag| tag.name != name) {
            let description = (!description.is_empty()).then(|| description.to_owned());
            tags.push(
                TagBuilder::new()
                    .name(name)
                    .description(description)
                    .build(),
            );
        }
    }

    /// What is served at one path, at another too, where its errors are in the words of dialect `D`.
    fn also<D: Dialect>(&mut self, of: &str, path: &str, handler: MethodRouter<App>) {
        self.router = std::mem::take(&mut self.router).route(path, handler);
        let original = self.api.paths.paths.get(of);
        let Some(mut operation) = original.and_then(|item| item.get.clone()) else {
            return;
        };
        operation.operation_id = Some(path[1..].replace('/', "_"));
        if D::TITLE != native::One::TITLE {
            operation.tags = Some(vec![D::TITLE.to_owned()]);
        }
        let error = self.reference::<D::ErrorBody>();
        // A probe has no error body where it needs no key.
        if operation.responses.responses.contains_key("401") {
            fail(&mut operation, StatusCode::UNAUTHORIZED, &error);
            fail(&mut operation, StatusCode::SERVICE_UNAVAILABLE, &error);
        }
        let paths = &mut self.api.paths;
        paths.add_path_operation(path, vec![HttpMethod::Get], operation);
    }

    /// Bedrock's path of any model.
    fn invoke(&mut self, paths: &[&str]) {
        type Invoked = bedrock::InvokeModel;
        for path in paths {
            let mut operation = self.described::<Invoked>(path);
            let model = ParameterBuilder::new()
                .name("model")
                .parameter_in(ParameterIn::Path)
                .required(Required::True)
                .description(Some("Any name or ARN with `rerank` in it"))
                .schema(Some(
                    ObjectBuilder::new()
                        .schema_type(Type::String)
                        .examples(["cohere.rerank-v3-5:0"]),
                ));
            operation.parameters = Some(vec![model.build().into()]);
            let error = self.reference::<<Invoked as Dialect>::ErrorBody>();
            let says = "The model is none that ranks";
            let unknown = failure(StatusCode::NOT_FOUND, says, &error);
            let responses = &mut operation.responses.responses;
            responses.insert("404".into(), unknown.into());
            self.route::<Invoked>(path, operation);
            self.router = std::mem::take(&mut self.router).route(path, post(score::invoke));
        }
    }

    /// The operation at a path of one dialect.
    fn described<D: Dialect>(&mut self, path: &str) -> Operation {
        let body = self.body::<D>();
        let answer = self.reference::<D::Answer>();
        let error = self.reference::<D::ErrorBody>();
        let (tag, summary) = heading::<D>(path);
        self.tag(tag, "");
        operation(path, tag, &summary, &body, &answer, &error)
    }

    /// A dialect's body, whose fields are known from now on.
    fn body<D: Dialect>(&mut self) -> RefOr<Schema> {
        if let RefOr::T(Schema::Object(body)) = <D::Body as PartialSchema>::schema() {
            self.fields.extend(body.properties.into_keys());
        }
        self.reference::<D::Body>()
    }

    /// Paths of one dialect.
    fn one<D: Dialect>(&mut self, paths: &[&str]) {
        for path in paths {
            let operation = self.described::<D>(path);
            self.route::<D>(path, operation);
            let handler = post(score::score::<D>);
            self.router = std::mem::take(&mut self.router).route(path, handler);
        }
    }

    /// A path of several dialects, told apart by their bodies.
    fn shared(&mut self, path: &str) {
        self.body::<native::One>();
        let (body, answer, error) = self.all_that_share();
        let (tag, summary) = if path == "/rerank" {
            (
                NATIVE,
                "Rank a query's documents, or score one pair: in the form of any dialect that shares paths, which the body shows",
            )
        } else {
            (
                SHARED,
                "Rank a query's documents, in the form of any dialect that shares this path: the body shows whose it is",
            )
        };
        let operation = operation(path, tag, summary, &body, &answer, &error);
        self.route::<native::One>(path, operation);
        self.router = std::mem::take(&mut self.router).route(path, post(score::any));
    }

    fn estimate(&mut self, path: &str) {
        let (body, _, _) = self.all_that_share();
        let answer = self.reference::<Estimated>();
        let error = self.reference::<native::ErrorBody>();
        let summary = "Tokens, predicted time and GB-seconds of any body that /rerank takes, without scoring it";
        let operation = operation(path, NATIVE, summary, &body, &answer, &error);
        self.route::<native::One>(path, operation);
        self.router = std::mem::take(&mut self.router).route(path, post(score::estimate));
    }

    /// Bodies, answers and error bodies of the dialects that share paths.
    fn all_that_share(&mut self) -> (RefOr<Schema>, RefOr<Schema>, RefOr<Schema>) {
        macro_rules! all {
            ($part:ident) => {
                any_of([
                    self.reference::<<native::One as Dialect>::$part>(),
                    self.reference::<<native::Batch as Dialect>::$part>(),
                    self.reference::<<common::Common as Dialect>::$part>(),
                    self.reference::<<tei::Tei as Dialect>::$part>(),
                    self.reference::<<bedrock::Bedrock as Dialect>::$part>(),
                    self.reference::<<pinecone::Pinecone as Dialect>::$part>(),
                    self.reference::<<mixedbread::Mixedbread as Dialect>::$part>(),
                    self.reference::<<vllm::Score as Dialect>::$part>(),
                ])
            };
        }
        (all!(Body), all!(Answer), all!(ErrorBody))
    }

    /// What holds for every operation: keys, and the refusals that may meet any request.
    fn common(&mut self) {
        let error = self.reference::<native::ErrorBody>();
        for (path, item) in &mut self.api.paths.paths {
            for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
                let open = auth::is_open(path);
                if !open {
                    // None, one of the ways to give a key: whether one is needed is the operator's choice.
                    operation.security = Some(vec![
                        SecurityRequirement::default(),
                        SecurityRequirement::new::<_, [&str; 0], _>(BEARER, []),
                        SecurityRequirement::new::<_, [&str; 0], _>(API_KEY, []),
                    ]);
                }
                let mut any = vec![
                    StatusCode::METHOD_NOT_ALLOWED,
                    StatusCode::UNPROCESSABLE_ENTITY,
                ];
                any.extend((!open).then_some(StatusCode::UNAUTHORIZED));
                for status in any {
                    if !operation.responses.responses.contains_key(status.as_str()) {
                        fail(operation, status, &error);
                    }
                }
            }
        }
        let components = self.api.components.get_or_insert_with(Components::new);
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        components.add_security_scheme(BEARER, SecurityScheme::Http(bearer));
        let api_key = ApiKey::Header(ApiKeyValue::new("x-api-key"));
        components.add_security_scheme(API_KEY, SecurityScheme::ApiKey(api_key));
    }

    fn route<D: Dialect>(&mut self, path: &str, operation: Operation) {
        self.error_formats.add(path, ErrorFormat::of::<D>());
        self.api
            .paths
            .add_path_operation(path, vec![HttpMethod::Post], operation);
    }

    /// The type's schema by its name; it and what it refers to are put among the document's.
    fn reference<T: ToSchema>(&mut self) -> RefOr<Schema> {
        let mut schemas = Vec::new();
        T::schemas(&mut schemas);
        let components = self.api.components.get_or_insert_with(Components::new);
        components.schemas.extend(schemas);
        let schema = <T as PartialSchema>::schema();
        // A list has no name of its own, but those of its items.
        if matches!(&schema, RefOr::T(Schema::Array(_))) {
            return schema;
        }
        let name = T::name();
        components.schemas.insert(name.to_string(), schema);
        Ref::from_schema_name(name).into()
    }
}

/// The tag and the summary of a dialect's path.
fn heading<D: Dialect>(path: &str) -> (&'static str, String) {
    let title = D::TITLE;
    if title == native::Batch::TITLE {
        let summary = "Score many pairs, answered in input order";
        return (NATIVE, summary.to_owned());
    }
    let what = if path.ends_with("/score") {
        "Score texts"
    } else if path.ends_with("/predict") {
        "Score pairs"
    } else {
        "Rank documents"
    };
    (title, format!("{what}, in the form of {title}"))
}

fn any_of<const N: usize>(schemas: [RefOr<Schema>; N]) -> RefOr<Schema> {
    let mut distinct: Vec<RefOr<Schema>> = Vec::new();
    for schema in schemas {
        if !distinct.contains(&schema) {
            distinct.push(schema);
        }
    }
    let items = distinct.into_iter();
    Schema::AnyOf(items.fold(AnyOfBuilder::new(), AnyOfBuilder::item).build()).into()
}

fn operation(
    path: &str,
    tag: &str,
    summary: &str,
    body: &RefOr<Schema>,
    answer: &RefOr<Schema>,
    error: &RefOr<Schema>,
) -> Operation {
    let body = RequestBodyBuilder::new()
        .required(Some(Required::True))
        .content("application/json", json(body))
        .build();
    let answer = ResponseBuilder::new()
        .description("The answer")
        .content("application/json", json(answer));
    let mut operation = OperationBuilder::new()
        .tag(tag)
        .summary(Some(summary))
        .operation_id(Some(operation_id(path)))
        .request_body(Some(body))
        .response("200", answer.build())
        .build();
    for &status in FAILURES.keys() {
        fail(&mut operation, status, error);
    }
    operation
}

/// Documents that an operation may fail with a status.
fn fail(operation: &mut Operation, status: StatusCode, error: &RefOr<Schema>) {
    let response = failure(status, &FAILURES[&status], error);
    let responses = &mut operation.responses.responses;
    responses.insert(status.as_str().to_owned(), response.into());
}

fn json(schema: &RefOr<Schema>) -> Content {
    ContentBuilder::new().schema(Some(schema.clone())).build()
}

fn failure(status: StatusCode, description: &str, error: &RefOr<Schema>) -> Response {
    let header = |kind| Header::new(ObjectBuilder::new().schema_type(kind));
    let response = ResponseBuilder::new()
        .description(description)
        .content("application/json", json(error));
    match status.as_u16() {
        401 => response.header("WWW-Authenticate", header(Type::String)),
        405 => response.header("Allow", header(Type::String)),
        429 => response.header("Retry-After", header(Type::Integer)),
        _ => response,
    }
    .build()
}

/// `post_v1_rerank` for `/v1/rerank`.
fn operation_id(path: &str) -> String {
    format!(
        "post{}",
        path.replace(['/', '.'], "_").replace(['{', '}'], "")
    )
}
