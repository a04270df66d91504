"""The language of ``where``: a condition on a table's columns. It is parsed and evaluated here; nothing is executed.

    condition := condition and|or condition | not condition | (condition) | comparison | test
    comparison:  value ==|!=|<|<=|>|>= value …, value in|not in [literal, …]
    test:        value.str.contains|startswith|endswith("text"), value.isna(), value.notna()
    value:       a column, a number, a text, True, False; column.str.lower(), .str.upper(), .str.strip()

``&``, ``|`` and ``~`` are read as ``and``, ``or`` and ``not``, as pandas' ``query`` does. Comparisons are pandas' own:
a row with an empty cell passes none but ``!=``.
"""

from __future__ import annotations

import ast
import keyword
import operator
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from lightning_tl.errors import UserError, nearest, shortened

if TYPE_CHECKING:
    import pandas as pd

_LONGEST = 5000
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_TEXT_TESTS = ("contains", "startswith", "endswith")
_TEXT_CHANGES = ("lower", "upper", "strip")
_TESTS = ("isna", "notna", "isnull", "notnull")
_METHODS = [*(f"str.{name}" for name in (*_TEXT_TESTS, *_TEXT_CHANGES)), *_TESTS]
_PATTERN = re.compile(r"[\\^$*+?{}\[\]|()]")
_RESERVED = {"and", "or", "not", "in", "is", "True", "False", "None"}
_STAND_IN = "_column_{}_"


class _Refused(Exception):
    """The expression is not of the language; the message says what is not."""


def selected_rows(table: pd.DataFrame, condition: str) -> pd.Series[bool]:
    """Return for each row of a table whether a condition holds, shape ``[rows]``.

    Args:
        table: Columns of numbers or of texts; missing cells are NaN.
        condition: In the language of this module.

    Raises:
        UserError: The condition cannot be read, uses what the language does not have, names no column of the table,
            or compares texts with numbers.
    """
    try:
        return _Condition(table).evaluate(condition)
    except _Refused as error:
        raise UserError(f"where '{shortened(condition)}': {error}") from None


class _Condition:
    def __init__(self, table: pd.DataFrame) -> None:
        self.table = table
        self.columns = {str(name): name for name in table.columns}
        self.named: dict[str, str] = {}

    def evaluate(self, condition: str) -> pd.Series[bool]:
        """Return the rows at which a condition holds."""
        if len(condition) > _LONGEST:
            raise _Refused(f"has {len(condition)} characters; at most {_LONGEST}")
        try:
            tree = ast.parse(self._with_stand_ins(" ".join(condition.split())), mode="eval")
            return self._truth(tree.body)
        except SyntaxError as error:
            raise _Refused(f"cannot be read ({error.msg}); an example: render == 'digits' and error < 0.5") from None
        except (RecursionError, MemoryError):
            raise _Refused("is nested too deeply") from None
        except ValueError as error:
            raise _Refused(f"cannot be read ({error})") from None

    def _with_stand_ins(self, text: str) -> str:
        """Replace ``&``, ``|``, and names that are not Python's: ``pretrain.data``, ``class``, those in backticks."""
        odd = [name for name in self.columns if not name.isidentifier() or keyword.iskeyword(name)]
        odd = sorted((name for name in odd if name and name not in _RESERVED), key=len, reverse=True)
        bare = "|".join(map(re.escape, odd))
        words = r"('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")|([&|])|`([^`]*)`"
        words += rf"|(?<![\w.])({bare})(?![\w.])" if bare else "|(?!)()"

        def stand_in(match: re.Match[str]) -> str:
            if match[1] is not None:
                return match[1]
            if match[2] is not None:
                return {"&": " and ", "|": " or "}[match[2]]
            name = match[3] if match[3] is not None else match[4]
            if name not in self.columns:
                raise self._no_column(name)
            word = _STAND_IN.format(len(self.named))
            self.named[word] = name
            return word

        return re.sub(words, stand_in, text)

    def _no_column(self, name: str) -> _Refused:
        return _Refused(f"no column '{shortened(name)}'{nearest(name, self.columns)}")

    def _truth(self, node: ast.expr) -> pd.Series[bool]:
        """Return the rows at which a part of the condition holds."""
        if isinstance(node, ast.BoolOp):
            parts = [self._truth(value) for value in node.values]
            return self._joined(parts, isinstance(node.op, ast.And))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert):
            return ~self._truth(node.operand)
        if isinstance(node, ast.Compare):
            left, parts = node.left, []
            for op, right in zip(node.ops, node.comparators, strict=True):
                parts.append(self._comparison(left, op, right))
                left = right
            return self._joined(parts, True)
        if isinstance(node, ast.Call):
            return self._test(node)
        raise _Refused(f"'{self._source(node)}' is neither a comparison nor a test; {_LANGUAGE}")

    @staticmethod
    def _joined(parts: Iterable[pd.Series[bool]], all_of: bool) -> pd.Series[bool]:
        first, *rest = parts
        for part in rest:
            first = first & part if all_of else first | part
        return first

    def _comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> pd.Series[bool]:
        import pandas as pd

        among = isinstance(op, ast.In | ast.NotIn)
        if among or (isinstance(op, ast.Eq | ast.NotEq) and isinstance(right, ast.List | ast.Tuple | ast.Set)):
            if not isinstance(right, ast.List | ast.Tuple | ast.Set):
                raise _Refused(f"'{self._source(right)}' after 'in' is no list of values, such as ['a', 'b']")
            value = self._value(left)
            if not isinstance(value, pd.Series):
                raise _Refused(f"'{self._source(left)}' before the list is no column")
            inside = value.isin([self._literal(item) for item in right.elts])
            return inside if isinstance(op, ast.In | ast.Eq) else ~inside
        if type(op) not in _COMPARISONS:
            raise _Refused("'is' is not in the language; write ==, or column.isna()")
        first, second = self._value(left), self._value(right)
        if not isinstance(first, pd.Series) and not isinstance(second, pd.Series):
            raise _Refused(f"'{self._source(left)}' and '{self._source(right)}' are both no columns")
        try:
            truth: pd.Series[bool] = _COMPARISONS[type(op)](first, second)
        except (TypeError, ValueError, OverflowError):
            raise _Refused(
                f"'{self._source(left)}' and '{self._source(right)}' cannot be compared: one is text"
            ) from None
        return truth

    def _value(self, node: ast.expr) -> Any:
        """Return a column, or a column of changed texts, or a literal."""
        if isinstance(node, ast.Name):
            name = self.named.get(node.id, node.id)
            if name not in self.columns:
                raise self._no_column(name)
            return self.table[self.columns[name]]
        if isinstance(node, ast.Call):
            value, method = self._method(node)
            if method.removeprefix("str.") not in _TEXT_CHANGES or node.args or node.keywords:
                raise _Refused(f"'{self._source(node)}' is not a value; {_LANGUAGE}")
            return getattr(self._texts(value, node).str, method.removeprefix("str."))()
        return self._literal(node)

    def _method(self, node: ast.Call) -> tuple[ast.expr, str]:
        """Return what a method is called on, and its name, which is one of the list."""
        function = node.func
        if isinstance(function, ast.Attribute):
            name, value = function.attr, function.value
            if isinstance(value, ast.Attribute) and value.attr == "str":
                name, value = f"str.{name}", value.value
            if name in _METHODS:
                return value, name
        raise _Refused(f"the call of '{self._source(function)}' is not allowed; the methods are {', '.join(_METHODS)}")

    def _test(self, node: ast.Call) -> pd.Series[bool]:
        import pandas as pd

        value, method = self._method(node)
        if method in _TESTS and not node.args and not node.keywords:
            column = self._value(value)
            if isinstance(column, pd.Series):
                return column.isna() if method in ("isna", "isnull") else column.notna()
        if method.removeprefix("str.") in _TEXT_TESTS and len(node.args) == 1 and not node.keywords:
            text = self._literal(node.args[0])
            if isinstance(text, str):
                return self._text_test(self._texts(value, node), method.removeprefix("str."), text)
        raise _Refused(f"'{self._source(node)}' is no test, such as render.str.startswith('digits') or score.notna()")

    @staticmethod
    def _text_test(texts: pd.Series[str], method: str, text: str) -> pd.Series[bool]:
        if method != "contains":
            truth = getattr(texts.str, method)(text)
        elif _PATTERN.search(text):
            raise _Refused(f"contains('{shortened(text)}') takes a plain text, not a pattern; join several by 'or'")
        else:
            truth = texts.str.contains(text, regex=False)
        filled: pd.Series[bool] = truth.where(truth.notna(), False).astype(bool)
        return filled

    def _texts(self, node: ast.expr, call: ast.Call) -> pd.Series[str]:
        import pandas as pd

        value = self._value(node)
        if not isinstance(value, pd.Series) or pd.api.types.is_numeric_dtype(value):
            raise _Refused(f"'{self._source(call)}': '{self._source(node)}' is no column of texts")
        return value

    def _source(self, node: ast.AST) -> str:
        try:
            text = ast.unparse(node)
        except RecursionError:
            return "…"
        for word, name in self.named.items():
            text = text.replace(word, name)
        return shortened(text)

    def _literal(self, node: ast.expr) -> Any:
        negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd)
        inner = node.operand if isinstance(node, ast.UnaryOp) and negative else node
        if isinstance(inner, ast.Constant):
            value = inner.value
            if isinstance(value, int | float) and not (negative and isinstance(value, bool)):
                return -value if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) else value
            if isinstance(value, str) and not negative:
                return value
        raise _Refused(f"'{self._source(node)}' is not allowed; {_LANGUAGE}")


_LANGUAGE = "a condition has columns, numbers, texts, ==, !=, <, <=, >, >=, in [...], and, or, not, parentheses"
