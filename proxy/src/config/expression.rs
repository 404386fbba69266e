//! Expressions of the file, each error where it stands.

use super::reader::Value;
use crate::expression::{Expression, ExpressionError};

/// An expression such as `vars`.
pub(crate) fn expression(value: &Value<'_>) -> Option<Expression> {
    let parsed = Expression::parse(&value.checked_json()?);
    parsed.map_err(|error| report(value, &error)).ok()
}

fn report(value: &Value<'_>, error: &ExpressionError) {
    let mut place = value.clone();
    for index in &error.path {
        let Some(item) = place.items().and_then(|items| items.into_iter().nth(*index)) else {
            break;
        };
        place = item;
    }
    place.error(error.to_string());
}

#[cfg(test)]
mod tests;
