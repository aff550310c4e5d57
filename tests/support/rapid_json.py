"""JSON as RapidJSON 1.1.0 reads and writes it for TF Serving's REST handler.

Differences from Python's `json`: a name may occur twice in an object (a look-up finds the first member, iteration
yields both); text after the first value is ignored; strings are bytes and are not validated; a lone low surrogate is
accepted, a lone high one is not; `NaN`, `Inf` and `Infinity` are numbers.
"""

import dataclasses
import math
import re
from typing import Any

_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)")
_FRACTION = re.compile(rb"\.[0-9]+")
_EXPONENT = re.compile(rb"[eE][+-]?([0-9]+)")
_SPACE = b" \n\r\t"
_ESCAPES = dict(zip(b'"\\/bfnrt', b'"\\/\b\f\n\r\t', strict=True))
_LITERALS = ((b"null", None), (b"true", True), (b"false", False))


class JsonError(ValueError):
    """An error message of RapidJSON, and the offset of the byte that it is about."""

    def __init__(self, message: str, offset: int):
        super().__init__(message)
        self.offset = offset


@dataclasses.dataclass(frozen=True)
class Object:
    """The members of a JSON object, in order; a name may occur twice."""

    members: list[tuple[bytes, Any]]

    def has(self, name: str) -> bool:
        """Whether a member has this name."""
        return any(found == name.encode() for found, _ in self.members)

    def find(self, name: str) -> Any:
        """The value of the first member of this name."""
        return next(value for found, value in self.members if found == name.encode())


def parse(text: bytes) -> Any:
    """The first value in `text`: None, bool, int, float, bytes (a string), list or Object.

    Raises:
        JsonError: there is none.
    """
    return _Reader(text).document()


class _Reader:
    def __init__(self, text: bytes):
        self._text, self._at = text, 0
        for byte in b"\xef\xbb\xbf":  # a byte order mark, whole or not
            if self._peek() == byte:
                self._at += 1

    def document(self) -> Any:
        """Reads without recursion, as the server does, so nesting has no limit."""
        self._skip_space()
        if not self._peek() or self._peek() in b"]},:":
            raise JsonError("The document is empty.", self._at)
        stack: list[tuple[list, bytes | None]] = []  # open containers, and names whose value is still to come
        value = self._value(stack)
        while stack:
            container, name = stack[-1]
            if value is not _OPENED:
                container.append(value if name is None else (name, value))
            value = self._next(stack, first=value is _OPENED)
        return value

    def _value(self, stack: list[tuple[list, bytes | None]]) -> Any:
        """A complete value, or `_OPENED` for a container that was pushed on the stack."""
        byte = self._peek()
        if byte in (ord("["), ord("{")):
            self._at += 1
            stack.append(([], None if byte == ord("[") else b""))
            return _OPENED
        if byte == ord('"'):
            return self._string()
        for word, meaning in _LITERALS:
            if byte == word[0]:
                return self._literal(word, meaning)
        return self._number()

    def _next(self, stack: list[tuple[list, bytes | None]], first: bool) -> Any:
        """Reads the separator or the end after a member, an element or an opened container."""
        container, name = stack[-1]
        in_array = name is None
        self._skip_space()
        if self._peek() == ord("]" if in_array else "}"):
            self._at += 1
            stack.pop()
            return container if in_array else Object(container)
        if not first:
            if self._peek() != ord(","):
                missing = "']' after an array element" if in_array else "'}' after an object member"
                raise JsonError(f"Missing a comma or {missing}.", self._at)
            self._at += 1
            self._skip_space()
        if not in_array:
            if self._peek() != ord('"'):
                raise JsonError("Missing a name for object member.", self._at)
            stack[-1] = container, self._string()
            self._skip_space()
            if self._peek() != ord(":"):
                raise JsonError("Missing a colon after a name of object member.", self._at)
            self._at += 1
            self._skip_space()
        return self._value(stack)

    def _peek(self) -> int:
        return self._text[self._at] if self._at < len(self._text) else 0

    def _skip_space(self) -> None:
        while self._peek() in _SPACE:
            self._at += 1

    def _literal(self, word: bytes, meaning: bool | None) -> bool | None:
        for byte in word:
            if self._peek() != byte:
                raise JsonError("Invalid value.", self._at)
            self._at += 1
        return meaning

    def _number(self) -> int | float:
        start, text = self._at, self._text
        unsigned = start + text.startswith(b"-", start)
        for word, meaning in ((b"NaN", math.nan), (b"Infinity", math.inf), (b"Inf", math.inf)):
            if text.startswith(word, unsigned):
                self._at = unsigned + len(word)
                return -meaning if unsigned > start else meaning
        digits = _NUMBER.match(text, start)
        if not digits:
            raise JsonError("Invalid value.", unsigned)
        self._at, fraction, exponent = digits.end(), None, None
        if self._peek() == ord("."):
            fraction = _FRACTION.match(text, self._at)
            if not fraction:
                raise JsonError("Miss fraction part in number.", self._at + 1)
            self._at = fraction.end()
        if self._peek() in b"eE":
            exponent = _EXPONENT.match(text, self._at)
            if not exponent:
                signed = text[self._at + 1 : self._at + 2] in (b"+", b"-")
                raise JsonError("Miss exponent in number.", self._at + 1 + signed)
            self._at = exponent.end()
            if b"-" not in exponent[0] and int(exponent[1]) > 308 + (len(fraction[0]) - 1 if fraction else 0):
                raise JsonError("Number too big to be stored in double.", start)
        whole = int(digits[0])
        if abs(whole) >= 2**1024:
            raise JsonError("Number too big to be stored in double.", start)
        if fraction or exponent or not -(2**63) <= whole < 2**64:
            return float(text[start : self._at])
        return whole

    def _string(self) -> bytes:
        self._at += 1
        found = bytearray()
        while True:
            byte = self._peek()
            if byte == ord('"'):
                self._at += 1
                return bytes(found)
            if byte == ord("\\"):
                found += self._escape()
            elif byte < 0x20:
                ends = "Missing a closing quotation mark in string."
                raise JsonError("Invalid escape character in string." if byte else ends, self._at)
            else:
                found.append(byte)
                self._at += 1

    def _escape(self) -> bytes:
        start = self._at
        self._at += 1
        byte = self._peek()
        self._at += 1
        if byte in _ESCAPES:
            return bytes([_ESCAPES[byte]])
        if byte != ord("u"):
            raise JsonError("Invalid escape character in string.", start)
        code = self._hex(start)
        if 0xD800 <= code <= 0xDBFF:
            low = 0
            if self._text.startswith(b"\\u", self._at):
                self._at += 2
                low = self._hex(start)
            if not 0xDC00 <= low <= 0xDFFF:
                raise JsonError("The surrogate pair in string is invalid.", start)
            code = ((code - 0xD800) << 10 | (low - 0xDC00)) + 0x10000
        return chr(code).encode("utf-8", "surrogatepass")

    def _hex(self, start: int) -> int:
        digits = self._text[self._at : self._at + 4]
        if not re.fullmatch(rb"[0-9A-Fa-f]{4}", digits):
            raise JsonError("Incorrect hex digit after \\u escape in string.", start)
        self._at += 4
        return int(digits, 16)


_OPENED = object()


class Writer:
    """RapidJSON's PrettyWriter: four spaces a level; `one_line` keeps the elements of arrays in one line."""

    def __init__(self) -> None:
        self.text, self.one_line = bytearray(), False
        self._levels: list[tuple[bool, int]] = []  # in an array or not, values so far

    def value(self, value: Any) -> None:
        """Anything that `parse` gives, and NumPy's float32."""
        if isinstance(value, Object):
            self.open("{")
            for name, member in value.members:
                self.value(name)
                self.value(member)
            self.close("}")
        elif isinstance(value, list):
            self.open("[")
            for element in value:
                self.value(element)
            self.close("]")
        else:
            self._prefix()
            self.text += _scalar(value)

    def open(self, bracket: str) -> None:
        """Starts an array or object."""
        self._prefix()
        self._levels.append((bracket == "[", 0))
        self.text += bracket.encode()

    def close(self, bracket: str) -> None:
        """Ends it."""
        in_array, count = self._levels.pop()
        if count and not (in_array and self.one_line):
            self._new_line()
        self.text += bracket.encode()

    def _prefix(self) -> None:
        if not self._levels:
            return
        in_array, count = self._levels[-1]
        self._levels[-1] = in_array, count + 1
        if in_array:
            self.text += b"," * (count > 0)
            if self.one_line:
                self.text += b" " * (count > 0)
            else:
                self._new_line()
        elif count % 2:
            self.text += b": "
        else:
            self.text += b"," * (count > 0)
            self._new_line()

    def _new_line(self) -> None:
        self.text += b"\n" + b"    " * len(self._levels)


def _scalar(value: Any) -> bytes:
    for word, meaning in _LITERALS:
        if value is meaning:
            return word
    if isinstance(value, bytes):
        return b'"' + b"".join(_WRITTEN.get(byte, bytes([byte])) for byte in value) + b'"'
    if isinstance(value, int):
        return str(value).encode()
    return decimal(value).encode()


def decimal(value: Any) -> str:
    """A float as TF Serving writes it: six digits if they restore the value, else nine (float32) or 17 (double)."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    text = f"{value:g}"
    if type(value)(text) != value:
        text = f"{value:.17g}" if type(value) is float else f"{value:.9g}"
    return text if "." in text or "e" in text else text + ".0"


_SHORT = {0x08: b"\\b", 0x09: b"\\t", 0x0A: b"\\n", 0x0C: b"\\f", 0x0D: b"\\r", 0x22: b'\\"', 0x5C: b"\\\\"}
_WRITTEN = {byte: f"\\u{byte:04X}".encode() for byte in range(0x20)} | _SHORT
