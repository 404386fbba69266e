//! Conditions over a request, written as APISIX writes them (`vars`, `_meta.filter`, `match`).
//!
//! ```text
//! expression = [] | [node, …] | logic             all of the nodes; none: holds
//! node       = [variable, operator, value]
//!            | [variable, "!", operator, value]   the opposite
//!            | [variable, value]                  `==`
//!            | [node, …] | logic
//! logic      = ["AND" | "OR" | "!AND" | "!OR", node, node, …]
//! ```
//!
//! | operator | holds if |
//! |---|---|
//! | `==`, `~=` | equal, not equal; as numbers if the value is one; `null` means absent |
//! | `>` `>=` `<` `<=` | both are numbers and compare so |
//! | `~~`, `~*` | the regular expression is found, `~*` in any case |
//! | `in` | equal (`==`) to one of a list |
//! | `has` | equal to one of the values of a field, argument or cookie |
//! | `ipmatch` | an address of the network, or of one of a list of networks |
//!
//! An absent variable equals `null` only, and no other operator holds for it. Texts of errors are
//! APISIX's where it has one.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use regex::bytes::Regex;
use serde_json::Value as Json;

use crate::{
    config::shown,
    regexes::{self, Options},
    variable::{Facts, Moment, TooEarly, UnknownVariable, Variable},
};

/// Nodes inside each other.
pub const DEPTH_MAX: usize = 16;
/// Nodes and items of lists in one expression.
pub const NODES_MAX: usize = 1024;

/// A condition that holds for a request or does not.
#[derive(Debug, Clone)]
pub struct Expression(Node);

#[derive(Debug, Clone)]
enum Node {
    All(Box<[Node]>),
    Any(Box<[Node]>),
    Not(Box<Node>),
    Test(Variable, Test),
}

#[derive(Debug, Clone)]
enum Test {
    Equals(Literal),
    /// The number is `None` if what was written is none: nothing compares with that.
    Compares(fn(&f64, &f64) -> bool, Option<f64>),
    Matches(Regex),
    In(Box<[Literal]>),
    Has(Literal),
    IpMatch(Box<[IpNet]>),
}

/// What a value is compared with.
#[derive(Debug, Clone, PartialEq)]
enum Literal {
    Absent,
    Number(f64),
    Text(Box<str>),
}

/// What is wrong with an expression, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpressionError {
    /// Indices into the arrays, from the outermost to the node.
    pub path: Vec<usize>,
    pub flaw: Flaw,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    Operator(String),
    NotWrapped,
    TooShort,
    BadNot,
    Invalid,
    Address,
    Variable(UnknownVariable),
    /// With what the engine says about it.
    Regex(String),
    TooDeep,
    TooLarge,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::Operator(word) => write!(f, "invalid operator '{}'", shown(word)),
            Flaw::NotWrapped => f.write_str("rule should be wrapped inside brackets"),
            Flaw::TooShort => f.write_str("rule too short"),
            Flaw::BadNot => f.write_str("bad 'not' expression"),
            Flaw::Invalid => f.write_str("invalid expression"),
            Flaw::Address => f.write_str("invalid ip address"),
            Flaw::Variable(unknown) => unknown.fmt(f),
            Flaw::Regex(problem) => write!(f, "invalid regular expression: {problem}"),
            Flaw::TooDeep => write!(f, "more than {DEPTH_MAX} rules inside each other"),
            Flaw::TooLarge => write!(f, "more than {NODES_MAX} rules and items of lists"),
        }
    }
}

/// The flaw alone; the place is the caller's to show.
impl fmt::Display for ExpressionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.flaw.fmt(f)
    }
}

impl std::error::Error for ExpressionError {}

impl Expression {
    /// # Errors
    /// The first flaw, in the order of the text.
    pub fn parse(value: &Json) -> Result<Expression, ExpressionError> {
        let mut parser = Parser::default();
        let expression = parser.expression(value);
        expression.map(Expression).map_err(|flaw| parser.error(flaw))
    }

    /// # Errors
    /// A variable has no value before `moment` is over: whatever is asked of it holds never, or always.
    pub fn check_known(&self, moment: Moment) -> Result<(), TooEarly> {
        self.0.check_known(moment)
    }

    /// A list of expressions of which one has to hold; an empty list holds. `fault-injection` and
    /// `match` of loggers have that.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn any_of(value: &Json) -> Result<Expression, ExpressionError> {
        let mut parser = Parser::default();
        let expressions = match value.as_array() {
            Some(items) if items.is_empty() => Ok(Node::All(Box::default())),
            Some(items) => parser.each(items, 0, Parser::expression).map(Node::Any),
            None => Err(Flaw::Invalid),
        };
        expressions.map(Expression).map_err(|flaw| parser.error(flaw))
    }

    pub fn holds(&self, facts: &Facts<'_>) -> bool {
        self.0.holds(facts)
    }
}

impl Node {
    fn check_known(&self, moment: Moment) -> Result<(), TooEarly> {
        match self {
            Node::All(nodes) | Node::Any(nodes) => {
                nodes.iter().try_for_each(|node| node.check_known(moment))
            }
            Node::Not(node) => node.check_known(moment),
            Node::Test(variable, _) => variable.check_known(moment),
        }
    }

    fn holds(&self, facts: &Facts<'_>) -> bool {
        match self {
            Node::All(nodes) => nodes.iter().all(|node| node.holds(facts)),
            Node::Any(nodes) => nodes.iter().any(|node| node.holds(facts)),
            Node::Not(node) => !node.holds(facts),
            Node::Test(variable, test) => test.holds(variable, facts),
        }
    }
}

impl Test {
    fn holds(&self, variable: &Variable, facts: &Facts<'_>) -> bool {
        match self {
            Test::Has(literal) => facts.has(variable, |value| literal.equals(Some(value))),
            Test::IpMatch(networks) => facts
                .address(variable)
                .is_some_and(|address| networks.iter().any(|network| network.contains(&address))),
            Test::Equals(literal) => literal.equals(facts.value(variable).as_deref()),
            Test::In(literals) => {
                let value = facts.value(variable);
                literals.iter().any(|literal| literal.equals(value.as_deref()))
            }
            Test::Compares(compares, right) => {
                let left = facts.value(variable).as_deref().and_then(number);
                left.zip(*right).is_some_and(|(left, right)| compares(&left, &right))
            }
            Test::Matches(regex) => {
                facts.value(variable).is_some_and(|value| regex.is_match(&value))
            }
        }
    }
}

impl Literal {
    fn equals(&self, value: Option<&[u8]>) -> bool {
        match (self, value) {
            (Literal::Absent, value) => value.is_none(),
            (Literal::Number(wanted), Some(value)) => number(value) == Some(*wanted),
            (Literal::Text(wanted), Some(value)) => wanted.as_bytes() == value,
            (Literal::Number(_) | Literal::Text(_), None) => false,
        }
    }

    fn number(&self) -> Option<f64> {
        match self {
            Literal::Absent => None,
            Literal::Number(number) => Some(*number),
            Literal::Text(text) => number(text.as_bytes()),
        }
    }
}

/// A finite decimal number, with blanks around it or not.
fn number(text: &[u8]) -> Option<f64> {
    // Rust also reads `inf` and `nan`.
    str::from_utf8(text.trim_ascii()).ok()?.parse().ok().filter(|number: &f64| number.is_finite())
}

#[derive(Debug, Default)]
struct Parser {
    /// Where the node stands that is being read.
    path: Vec<usize>,
    depth: usize,
    /// Nodes and items of lists so far.
    nodes: usize,
}

impl Parser {
    fn error(self, flaw: Flaw) -> ExpressionError {
        ExpressionError { path: self.path, flaw }
    }

    /// Reads the items from `first` on, and stays where an error is.
    fn each(
        &mut self,
        items: &[Json],
        first: usize,
        read: fn(&mut Self, &Json) -> Result<Node, Flaw>,
    ) -> Result<Box<[Node]>, Flaw> {
        self.spend(items.len())?;
        if self.depth == DEPTH_MAX {
            return Err(Flaw::TooDeep);
        }
        self.depth += 1;
        let mut nodes = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate().skip(first) {
            self.path.push(index);
            nodes.push(read(self, item)?);
            self.path.pop();
        }
        self.depth -= 1;
        Ok(nodes.into())
    }

    fn expression(&mut self, value: &Json) -> Result<Node, Flaw> {
        let Json::Array(items) = value else { return Err(Flaw::Invalid) };
        match items.first() {
            None => Ok(Node::All(Box::default())),
            Some(Json::Array(_)) => self.node(value),
            Some(Json::String(word)) if Logic::parse(word).is_some() => self.node(value),
            Some(_) => Err(Flaw::NotWrapped),
        }
    }

    fn node(&mut self, value: &Json) -> Result<Node, Flaw> {
        let Json::Array(items) = value else { return Err(Flaw::NotWrapped) };
        match items.first() {
            None => Err(Flaw::TooShort),
            Some(Json::Array(_)) => self.each(items, 0, Parser::node).map(Node::All),
            Some(Json::String(name)) => match Logic::parse(name) {
                Some(_) if items.len() < 3 => Err(Flaw::TooShort),
                Some(logic) => self.each(items, 1, Parser::node).map(|nodes| logic.node(nodes)),
                None => self.test(name, &items[1..]),
            },
            Some(_) => Err(Flaw::Invalid),
        }
    }

    /// What follows the name of a variable.
    fn test(&mut self, name: &str, rest: &[Json]) -> Result<Node, Flaw> {
        let (is_opposite, operator, right) = match rest {
            [right] if !right.as_str().is_some_and(is_operator) => (false, "==", right),
            [Json::String(operator), right] => (false, operator.as_str(), right),
            [Json::String(not), Json::String(operator), right] if not == "!" => {
                (true, operator.as_str(), right)
            }
            [_, _, _] => return Err(Flaw::BadNot),
            _ => return Err(Flaw::Invalid),
        };
        let variable = Variable::parse(name).map_err(Flaw::Variable)?;
        let operator = operator.to_ascii_lowercase();
        let test = match operator.as_str() {
            "==" | "~=" => Test::Equals(literal(right)?),
            ">" => Test::Compares(f64::gt, literal(right)?.number()),
            ">=" => Test::Compares(f64::ge, literal(right)?.number()),
            "<" => Test::Compares(f64::lt, literal(right)?.number()),
            "<=" => Test::Compares(f64::le, literal(right)?.number()),
            "~~" => Test::Matches(regex(right, false)?),
            "~*" => Test::Matches(regex(right, true)?),
            "in" => Test::In(self.list(right.as_array().ok_or(Flaw::Invalid)?, literal)?),
            "has" => Test::Has(literal(right)?),
            "ipmatch" => Test::IpMatch(match right.as_array() {
                Some(items) if items.is_empty() => return Err(Flaw::Address),
                Some(items) => self.list(items, network)?,
                None => [network(right)?].into(),
            }),
            _ => return Err(Flaw::Operator(operator)),
        };
        let is_negated = is_opposite != (operator == "~=");
        let test = Node::Test(variable, test);
        Ok(if is_negated { Node::Not(Box::new(test)) } else { test })
    }

    fn list<T>(
        &mut self,
        items: &[Json],
        read: fn(&Json) -> Result<T, Flaw>,
    ) -> Result<Box<[T]>, Flaw> {
        self.spend(items.len())?;
        items.iter().map(read).collect()
    }

    fn spend(&mut self, nodes: usize) -> Result<(), Flaw> {
        self.nodes += nodes;
        if self.nodes > NODES_MAX { Err(Flaw::TooLarge) } else { Ok(()) }
    }
}

const OPERATORS: [&str; 11] =
    ["==", "~=", ">", ">=", "<", "<=", "~~", "~*", "in", "has", "ipmatch"];

fn is_operator(word: &str) -> bool {
    OPERATORS.iter().any(|operator| word.eq_ignore_ascii_case(operator))
}

/// How nodes are joined.
#[derive(Debug, Clone, Copy)]
struct Logic {
    is_any: bool,
    is_negated: bool,
}

impl Logic {
    fn parse(word: &str) -> Option<Logic> {
        let (is_negated, word) = word.strip_prefix('!').map_or((false, word), |word| (true, word));
        let is_any = word.eq_ignore_ascii_case("OR");
        let is_logic = is_any || word.eq_ignore_ascii_case("AND");
        is_logic.then_some(Logic { is_any, is_negated })
    }

    fn node(self, nodes: Box<[Node]>) -> Node {
        let node = if self.is_any { Node::Any(nodes) } else { Node::All(nodes) };
        if self.is_negated { Node::Not(Box::new(node)) } else { node }
    }
}

/// Variables are texts, so a boolean is compared as it is spelled.
fn literal(value: &Json) -> Result<Literal, Flaw> {
    match value {
        Json::Null => Ok(Literal::Absent),
        Json::Bool(value) => Ok(Literal::Text(value.to_string().into())),
        Json::Number(number) => number.as_f64().map(Literal::Number).ok_or(Flaw::Invalid),
        Json::String(text) => Ok(Literal::Text(text.as_str().into())),
        Json::Array(_) | Json::Object(_) => Err(Flaw::Invalid),
    }
}

/// Searches bytes, as values need not be UTF-8.
fn regex(value: &Json, ignores_case: bool) -> Result<Regex, Flaw> {
    let pattern = value.as_str().ok_or(Flaw::Invalid)?;
    let options = Options { ignores_case, ..Options::default() };
    regexes::compiled(pattern, options).map_err(|error| Flaw::Regex(last_line(&error)))
}

/// The engine draws where it stumbled, and says why in the last line.
fn last_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

fn network(value: &Json) -> Result<IpNet, Flaw> {
    let text = value.as_str().ok_or(Flaw::Address)?;
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| Flaw::Address)
}

#[cfg(test)]
mod tests;
