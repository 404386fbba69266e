//! The settings of plugins, wherever they are configured: what every plugin's `read` is made of.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    fmt::Display,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use base64ct::{Base64, Encoding as _};
use http::{HeaderName, HeaderValue};
use regex::bytes::Regex;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use serde_json::Value as Json;

pub(crate) use super::reader::{Place, Section, Value};
use super::{
    consumers::Names,
    expression::expression,
    leaf::Id,
    metadata::Metadata,
    planned::Kind as In,
    reader,
    tree::shown,
    upstream::{ByPlugins, Known},
};
use crate::{
    client::Url,
    http::name::is_token_byte,
    log_files,
    plugin::{self, Credential, ErrorResponse, Kind, Meta, Plugin, PluginConfig, PluginSet},
    regexes::{self, Options},
    template::{Groups, Search, Template},
    variable::Moment,
};

/// What a plugin's settings may refer to.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'s> {
    /// The resource that has the plugin, the same in every file that names it so; `None`: it has no
    /// name yet, or none that is right.
    pub(crate) owner: Option<&'s str>,
    pub(super) consumers: &'s Names,
    pub(super) upstreams: &'s Known,
    /// Those that plugins lead to.
    pub(super) by_plugins: &'s RefCell<ByPlugins>,
    pub(crate) metadata: &'s Metadata,
    /// Those that loggers write to.
    pub(crate) log_paths: &'s LogPaths,
    pub(super) groups: &'s RefCell<PluginGroups>,
}

/// The files of loggers so far.
pub(crate) type LogPaths = RefCell<HashSet<PathBuf>>;

/// Plugins that others of their kind share, by kind and group.
#[derive(Default)]
pub(super) struct PluginGroups(HashMap<(&'static str, Box<str>), Grouped>);

struct Grouped {
    plugin: Arc<dyn Plugin>,
    source: Arc<Json>,
    /// Where it is written first.
    line: usize,
}

impl PluginGroups {
    /// What the group of `new` shares; an error at `value` if it is set otherwise.
    fn join(&mut self, new: PluginConfig, value: &Value<'_>) -> Option<PluginConfig> {
        let Some(group) = new.plugin.group() else { return Some(new) };
        let PluginConfig { plugin, source, .. } = &new;
        let first = self.0.entry((new.kind.name, group.into())).or_insert_with(|| Grouped {
            plugin: Arc::clone(plugin),
            source: Arc::clone(source),
            line: value.place.line(),
        });
        if first.source != *source {
            let line = first.line;
            value.member("group").as_ref().unwrap_or(value).error(format!(
                "group conf mismatched: this group has other settings in line {line}; make them the \
                 same or take another group"
            ));
            return None;
        }
        Some(PluginConfig { plugin: Arc::clone(&first.plugin), ..new })
    }
}

/// What a consumer is known by, and where that is written.
pub(crate) struct CredentialAt<'t> {
    pub(crate) credential: Credential,
    pub(crate) place: Place<'t>,
}

/// `plugins` of a route or of anything that a route refers to.
pub(super) fn read(value: &Value<'_>, scope: &Scope<'_>) -> PluginSet {
    let pairs = value.pairs().unwrap_or_default();
    let plugins = pairs.into_iter().filter_map(|(at, name, value)| one(&at, name, &value, scope));
    PluginSet { owner: None, plugins: plugins.collect() }
}

fn one(at: &Place<'_>, name: &str, value: &Value<'_>, scope: &Scope<'_>) -> Option<PluginConfig> {
    let kind = known(at, name)?;
    let mut section = value.section()?;
    let meta = section.take("_meta").map(|value| meta(&value, kind.credential.is_some()));
    let meta = match meta {
        Some(meta) => meta?,
        None => Meta::default(),
    };
    refuse_references(value);
    let errors = at.errors();
    let plugin = (kind.read)(&mut section, scope);
    section.finish(In::Plugin);
    if plugin.is_none() && at.errors() == errors {
        at.error("these settings cannot be read");
    }
    let source = source(value, scope.metadata.source(kind.name));
    let config = PluginConfig { kind, meta, plugin: plugin?, source: Arc::new(source) };
    scope.groups.borrow_mut().join(config, value)
}

/// What stands for a secret must not be taken for one: everybody who knows APISIX could guess it.
fn refuse_references(value: &Value<'_>) {
    const SCHEMES: [&str; 2] = ["$secret://", "$env://"];
    let is_reference = |text: &str| {
        let is_it = |scheme: &&str| {
            text.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme))
        };
        SCHEMES.iter().any(is_it)
    };
    value.refuse(&is_reference, "references to secrets are not built yet; write `${{VAR}}`");
}

/// The settings, apart from what holds for every plugin, and what is set for all uses of this one.
fn source(value: &Value<'_>, metadata: Option<&Json>) -> Json {
    let mut source = value.source();
    if let Some(settings) = source.as_object_mut() {
        settings.remove("_meta");
    }
    match metadata {
        Some(metadata) => Json::Array(vec![source, metadata.clone()]),
        None => source,
    }
}

/// The plugin of that name, or an error at its key.
fn known(at: &Place<'_>, name: &str) -> Option<&'static Kind> {
    let kind = Kind::named(name);
    if kind.is_none() {
        let refusal = super::planned::refusal(In::Plugins, name);
        at.error(refusal.unwrap_or_else(|| {
            if at.is_secret() {
                return "unknown plugin".to_owned();
            }
            let near = reader::nearest(name, plugin::KINDS.iter().map(|kind| kind.name));
            let hint = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            format!("unknown plugin [{}]{hint}", shown(name))
        }));
    }
    kind
}

/// `_meta` of a plugin that authenticates, or of another one.
fn meta(value: &Value<'_>, authenticates: bool) -> Option<Meta> {
    let mut section = value.section()?;
    let is_disabled = section.leaf_or("disable", false);
    let priority = section.take("priority").and_then(|value| value.within(&(i32::MIN..=i32::MAX)));
    let error_response = section.take("error_response").and_then(|value| error_response(&value));
    // Whether the plugin applies is settled by then. Nobody may be let in because it cannot be.
    let moment = if authenticates { Moment::Request } else { Moment::Consumer };
    let filter = section.take("filter").map(|value| expression(&value, moment));
    section.finish(In::Meta);
    let filter = match filter {
        // A plugin whose filter cannot be read must not pass for one without.
        Some(filter) => Some(filter?),
        None => None,
    };
    Some(Meta { is_disabled, priority, filter, error_response })
}

/// A text as it is, which may be JSON too, or a mapping as JSON.
fn error_response(value: &Value<'_>) -> Option<ErrorResponse> {
    if value.is_mapping() {
        let json = value.json();
        return Some(ErrorResponse { body: format!("{json}\n").into(), is_json: true });
    }
    let text = value.leaf::<String>()?;
    let is_json =
        text.trim_start().starts_with(['{', '[']) && serde_json::from_str::<Json>(&text).is_ok();
    Some(ErrorResponse { body: text.into(), is_json })
}

/// `plugins` of a consumer or a consumer group: what applies to it, and what it is known by.
pub(super) fn of_consumer<'t>(
    value: &Value<'t>,
    scope: &Scope<'_>,
) -> (PluginSet, Vec<CredentialAt<'t>>) {
    let (mut set, mut credentials) = (PluginSet::default(), Vec::new());
    // What is misspelt may be a secret too.
    for (at, name, value) in value.clone().secret().pairs().unwrap_or_default() {
        let Some(kind) = known(&at, name) else { continue };
        match kind.credential {
            Some(read) => {
                let Some(mut section) = value.section() else { continue };
                refuse_references(&value);
                credentials.extend(read(&mut section));
                section.finish(In::Plugin);
            }
            None => set.plugins.extend(one(&at, name, &value, scope)),
        }
    }
    (set, credentials)
}

/// `plugins` of a credential: the one by which its consumer is known.
pub(super) fn of_credential<'t>(value: &Value<'t>) -> Option<CredentialAt<'t>> {
    let pairs = value.clone().secret().pairs()?;
    let [(at, name, value)] = &*pairs else {
        value.error("needs one plugin; a further one has a credential of its own");
        return None;
    };
    let Some(read) = known(at, name)?.credential else {
        at.error("only supports auth type plugins in consumer credential");
        return None;
    };
    let mut section = value.section()?;
    refuse_references(value);
    let credential = read(&mut section);
    section.finish(In::Plugin);
    credential
}

/// Whose credential each one is; no two consumers share one.
#[derive(Debug, Default)]
pub(super) struct Owners(HashMap<(&'static str, Arc<[u8]>), Arc<str>>);

impl Owners {
    pub(super) fn enter(&mut self, username: &Arc<str>, at: &CredentialAt<'_>) {
        let Credential { kind, id, .. } = &at.credential;
        if let Some(owner) = self.0.insert((kind, Arc::clone(id)), Arc::clone(username)) {
            let where_to =
                if owner == *username { "say it once" } else { "it belongs to one consumer" };
            at.place
                .error(format!("consumer `{owner}` has the same {kind} credential; {where_to}"));
        }
    }
}

/// The content of a file of at most `size_max` bytes.
pub(crate) fn file(value: &Value<'_>, size_max: usize) -> Option<Vec<u8>> {
    let path = value.leaf::<String>()?;
    let read = || {
        let file = File::open(&path)?;
        // Whatever else there is may never end.
        if !file.metadata()?.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut content = Vec::new();
        file.take(size_max as u64 + 1).read_to_end(&mut content)?;
        Ok(content)
    };
    let content = read().map_err(|error: io::Error| value.error(format!("not read: {error}"))).ok();
    let content = content?;
    if content.len() > size_max {
        value.error(format!("is a file of more than {size_max} bytes"));
        return None;
    }
    Some(content)
}

/// Whom to ask for something.
pub(crate) fn url(value: &Value<'_>) -> Option<Url> {
    let parsed = Url::parse(&value.leaf::<String>()?);
    parsed.map_err(|error| value.error(error.to_string())).ok()
}

/// The name of a request field that plugins may change, RFC 9110 section 5.6.2, in lower case.
pub(crate) fn field_name(value: &Value<'_>) -> Option<String> {
    let is_token = |name: &str| !name.is_empty() && name.bytes().all(is_token_byte);
    let name = value.text("is not the name of a field", is_token)?.to_ascii_lowercase();
    if !plugin::is_editable(&name) {
        value.error("is a field that the proxy makes itself; use one of its own");
        return None;
    }
    Some(name)
}

/// The name of a query argument, as it is decoded.
pub(crate) fn argument_name(value: &Value<'_>) -> Option<String> {
    value.text("is not the name of a query argument", |name| {
        !name.is_empty()
            && !name.contains(['&', '=', '#'])
            && name.bytes().all(|b| b.is_ascii_graphic())
    })
}

impl Section<'_> {
    /// Refuses every key of a plugin's settings that nobody took.
    pub(crate) fn finish_plugin(self) {
        self.finish(In::Plugin);
    }
}

const NO_FIELD_VALUE: &str = "has characters that no field can have";

/// The value of a field, RFC 9110 section 5.5.
pub(crate) fn field_value(value: &Value<'_>) -> Option<HeaderValue> {
    let text = value.leaf::<String>()?;
    let made = HeaderValue::try_from(text);
    made.map_err(|_| value.error(NO_FIELD_VALUE)).ok()
}

/// A regular expression over bytes, whose classes are of ASCII; it takes time in proportion to what it
/// looks at.
pub(crate) fn regex(value: &Value<'_>) -> Option<Regex> {
    regex_with(value, "")
}

/// The letters of a regular expression's options that mean something here: `j` and `o` tell others to
/// compile it once, as is done anyway.
pub(crate) fn regex_options(value: &Value<'_>) -> Option<String> {
    value.text("has letters other than `i`, `j`, `m`, `o`, `s` and `x`", |options| {
        options.bytes().all(|letter| b"ijmosx".contains(&letter))
    })
}

/// The same with options of PCRE: `i` for either case, `m` for `^` and `$` at every line, `s` for a `.`
/// that matches ends of lines, `x` for blanks that mean nothing.
pub(crate) fn regex_with(value: &Value<'_>, options: &str) -> Option<Regex> {
    let pattern = value.leaf::<String>()?;
    let options = Options {
        ignores_case: options.contains('i'),
        is_multi_line: options.contains('m'),
        dot_matches_all: options.contains('s'),
        ignores_blanks: options.contains('x'),
    };
    let regex = regexes::compiled(&pattern, options);
    regex.map_err(|error| value.error(regex_problem(&error))).ok()
}

/// A text with variables in it.
pub(crate) fn template(value: &Value<'_>) -> Option<Template> {
    template_with(value, Groups::None)
}

/// A text with variables in it, and groups of a match.
pub(crate) fn template_with(value: &Value<'_>, groups: Groups) -> Option<Template> {
    text_template(value, &value.leaf::<String>()?, groups, Moment::Consumer)
}

/// `text`, which stands in `value`, with variables in it that are known by `moment`.
fn text_template(
    value: &Value<'_>,
    text: &str,
    groups: Groups,
    moment: Moment,
) -> Option<Template> {
    let parsed = Template::parse(text, groups);
    let template = parsed.map_err(|error| value.error(error.to_string())).ok()?;
    let known = template.check_known(moment);
    known.map(|()| template).map_err(|error| value.error(error.to_string())).ok()
}

/// RFC 4648 section 4, with padding.
pub(crate) fn base64(value: &Value<'_>) -> Option<Vec<u8>> {
    let decoded = Base64::decode_vec(&value.leaf::<String>()?);
    decoded.map_err(|_| value.error("is not base64")).ok()
}

/// A text or a number, with variables in it.
pub(crate) fn scalar_template(value: &Value<'_>, groups: Groups) -> Option<Template> {
    text_template(value, value.written()?, groups, Moment::Consumer)
}

/// The same for the value of a field, RFC 9110 section 5.5.
pub(crate) fn field_template(value: &Value<'_>, groups: Groups) -> Option<Template> {
    field_text(value, value.written()?, groups, Moment::Consumer)
}

/// `text`, which stands in `value`, as the value of a field with variables in it.
pub(crate) fn field_text(
    value: &Value<'_>,
    text: &str,
    groups: Groups,
    moment: Moment,
) -> Option<Template> {
    let template = text_template(value, text, groups, moment)?;
    if template.literals().any(|literal| HeaderValue::from_str(literal).is_err()) {
        value.error(NO_FIELD_VALUE);
        return None;
    }
    Some(template)
}

/// The name of a field that plugins may change, which stands as a key.
pub(crate) fn field_key(place: &Place<'_>, name: &str) -> Option<HeaderName> {
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(name) if plugin::is_editable(name.as_str()) => Some(name),
        Ok(_) => {
            place.error("is a field that the proxy makes itself");
            None
        }
        Err(_) => {
            place.error("is not the name of a field");
            None
        }
    }
}

/// Values of one field.
const FIELD_VALUES_MAX: usize = 32;

/// Fields by name, each with a template.
pub(crate) fn field_templates(
    value: &Value<'_>,
    groups: Groups,
) -> Option<Vec<(HeaderName, Template)>> {
    field_templates_by(value, groups, Moment::Consumer)
}

/// The same with what is known by `moment`.
pub(crate) fn field_templates_by(
    value: &Value<'_>,
    groups: Groups,
    moment: Moment,
) -> Option<Vec<(HeaderName, Template)>> {
    named(value, |value| field_text(value, value.written()?, groups, moment))
}

/// Fields by name, each with a template or a list of them.
pub(crate) fn field_lists(
    value: &Value<'_>,
    groups: Groups,
) -> Option<Vec<(HeaderName, Vec<Template>)>> {
    named(value, |value| match value.sequence() {
        Some(_) => list(value, FIELD_VALUES_MAX, |value| field_template(value, groups)),
        None => field_template(value, groups).map(|template| vec![template]),
    })
}

/// What `read` makes of each field.
fn named<T>(
    value: &Value<'_>,
    read: impl Fn(&Value<'_>) -> Option<T>,
) -> Option<Vec<(HeaderName, T)>> {
    let pairs = value.pairs()?.into_iter().map(|(place, name, value)| {
        let (name, made) = (field_key(&place, name), read(&value));
        Some((name?, made?))
    });
    // All are read, so that all errors are found.
    let pairs: Vec<_> = pairs.collect();
    pairs.into_iter().collect()
}

/// `[regex, text, regex, text, …]`: what is looked for, and what stands in its place.
pub(crate) fn regex_pairs(value: &Value<'_>) -> Option<Vec<(Search, Template)>> {
    let items = value.items()?;
    if items.len() % 2 != 0 {
        value.error("The length of regex_uri should be an even number");
        return None;
    }
    let pairs = items.chunks_exact(2).map(|pair| {
        let search = Search::new(regex(&pair[0])?);
        let groups = Groups::UpTo(search.groups());
        Some((search, template_with(&pair[1], groups)?))
    });
    let pairs: Vec<_> = pairs.collect();
    pairs.into_iter().collect()
}

/// The last line says what is wrong, those before it show where.
fn regex_problem(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    format!("invalid regular expression: {}", last.strip_prefix("error: ").unwrap_or(last))
}

/// The name of a cookie (RFC 6265 section 4.1.1).
pub(crate) fn cookie_name(value: &Value<'_>) -> Option<String> {
    value.text("is not the name of a cookie", |name| {
        !name.is_empty() && name.bytes().all(is_token_byte)
    })
}

/// Bytes of a request body that is held, unless the settings say otherwise.
const HELD_SIZE_MAX: u64 = 64 << 20;

/// `max_req_body_size` of a plugin that may ask for the body of a request ([`plugin::Call::Body`]);
/// `None`: it does not, as `switch` is not set.
pub(crate) fn held_size_max(
    section: &mut Section<'_>,
    is_asked_for: bool,
    switch: &str,
) -> Option<u64> {
    const KEY: &str = "max_req_body_size";
    if !is_asked_for && let Some(value) = section.take(KEY) {
        value.error(format!("means nothing without `{switch}`"));
    }
    let bytes = 1..=plugin::HELD_BYTES_MAX as u64;
    is_asked_for.then(|| section.within_or(KEY, bytes, HELD_SIZE_MAX))
}

/// Takes a switch that does nothing yet and so must be off.
pub(crate) fn not_built(section: &mut Section<'_>, key: &'static str) {
    if let Some(value) = section.take(key)
        && value.leaf() == Some(true)
    {
        value.error("`true` is not built yet; remove it");
    }
}

/// What a challenge names (RFC 9110 section 11.5), between quotes.
pub(crate) fn realm(value: &Value<'_>) -> Option<String> {
    value.text("needs 1 to 128 printable characters but `\"` and `\\`", |realm| {
        (1..=128).contains(&realm.len())
            && realm
                .bytes()
                .all(|byte| matches!(byte, 0x20..=0x7e) && byte != b'"' && byte != b'\\')
    })
}

/// The id of a listed upstream of the same file that routes may lead to.
pub(crate) fn upstream(value: &Value<'_>, scope: &Scope<'_>) -> Option<Arc<str>> {
    let Id(id) = value.leaf()?;
    scope.upstreams.check(value, &id)?;
    scope.by_plugins.borrow_mut().refer(Arc::clone(&id));
    Some(id)
}

/// The id of an upstream that is written in place: that of the resource, and `name`, which tells it from
/// the others of that resource and stays through reloads.
pub(crate) fn upstream_in_place(
    value: &Value<'_>,
    scope: &Scope<'_>,
    name: impl Display,
) -> Option<Arc<str>> {
    let id = scope.owner.map(|owner| format!("{owner}:{name}"));
    scope.by_plugins.borrow_mut().read(value, id)
}

/// The name of a consumer of the same file.
pub(crate) fn consumer(value: &Value<'_>, scope: &Scope<'_>) -> Option<String> {
    let name = value.leaf::<String>()?;
    if !scope.consumers.contains(name.as_str()) {
        value.error(format!("no consumer is named `{}`", shown(&name)));
        return None;
    }
    Some(name)
}

/// The list of exactly one of two keys, and whether it is that of the first.
pub(crate) fn either<'t>(
    section: &mut Section<'t>,
    first: &'static str,
    second: &'static str,
) -> Option<(bool, Value<'t>)> {
    match (section.take(first), section.take(second)) {
        (Some(value), None) => Some((true, value)),
        (None, Some(value)) => Some((false, value)),
        (Some(_), Some(_)) | (None, None) => {
            section.error(format!("needs exactly one of `{first}` and `{second}`"));
            None
        }
    }
}

/// What `read` makes of each item of a list that has 1 to `count_max`.
pub(crate) fn list<'t, T>(
    value: &Value<'t>,
    count_max: usize,
    read: impl Fn(&Value<'t>) -> Option<T>,
) -> Option<Vec<T>> {
    let items = value.items()?;
    if !(1..=count_max).contains(&items.len()) {
        value.error(format!("needs 1 to {count_max} items"));
        return None;
    }
    // All are read, so that all errors are found.
    let read: Vec<Option<T>> = items.iter().map(read).collect();
    read.into_iter().collect()
}

/// What a request is told that is refused.
pub(crate) fn message(value: &Value<'_>) -> Option<String> {
    value.text("needs 1 to 1024 characters", |text| (1..=1024).contains(&text.chars().count()))
}

/// Refuses the keys that nobody took of a mapping within a plugin's settings.
pub(crate) fn nothing_else(section: Section<'_>) {
    section.finish(In::Plugin);
}

/// A file that a logger may append to, or may make. Nothing is opened: whoever only checks a
/// configuration leaves no traces.
pub(crate) fn log_path(value: &Value<'_>, known: &LogPaths) -> Option<PathBuf> {
    let is_path = |text: &str| text.starts_with('/') && !text.contains('\0');
    let path = PathBuf::from(value.text("expected a file as an absolute path", is_path)?);
    if let Err(error) = check_appendable(&path) {
        value.error(format!("cannot be written to: {error}"));
        return None;
    }
    let mut known = known.borrow_mut();
    known.insert(path.clone());
    if known.len() > log_files::FILES_MAX {
        value.error(format!("more than {} log files", log_files::FILES_MAX));
        return None;
    }
    Some(path)
}

fn check_appendable(path: &Path) -> io::Result<()> {
    let check = |path: &Path, access| Ok(accessat(CWD, path, access, AtFlags::EACCESS)?);
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(_) => check(path, Access::WRITE_OK),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = path.parent().unwrap_or(path);
            check(directory, Access::WRITE_OK | Access::EXEC_OK)
        }
        Err(error) => Err(error),
    }
}
