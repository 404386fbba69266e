//! Expressions of the file, each error where it stands.

use super::reader::Value;
use crate::{
    expression::{Expression, ExpressionError, Flaw},
    variable::Moment,
};

/// An expression such as `vars`, about what is known by `moment`.
pub(crate) fn expression(value: &Value<'_>, moment: Moment) -> Option<Expression> {
    let parsed = Expression::parse(&value.checked_json()?);
    known(value, parsed.map_err(|error| report(value, &error)).ok()?, moment)
}

/// A list of expressions of which one has to hold.
pub(crate) fn any_expression(value: &Value<'_>, moment: Moment) -> Option<Expression> {
    let parsed = Expression::any_of(&value.checked_json()?);
    known(value, parsed.map_err(|error| report(value, &error)).ok()?, moment)
}

fn known(value: &Value<'_>, expression: Expression, moment: Moment) -> Option<Expression> {
    let checked = expression.check_known(moment);
    checked.map(|()| expression).map_err(|error| value.error(error.to_string())).ok()
}

fn report(value: &Value<'_>, error: &ExpressionError) {
    let mut place = value.clone();
    for index in &error.path {
        let Some(item) = place.items().and_then(|items| items.into_iter().nth(*index)) else {
            break;
        };
        place = item;
    }
    // An environment may hold secrets wherever the file uses it.
    let is_quoted = matches!(error.flaw, Flaw::Operator(_) | Flaw::Variable(_));
    place.error(if is_quoted && place.uses_environment() {
        "unknown variable or operator in the environment".to_owned()
    } else {
        error.to_string()
    });
}

#[cfg(test)]
mod tests;
