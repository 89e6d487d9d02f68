"""Names that Python 3.10 and 3.11 removed and that Glance 15 and its libraries of 2017 to 2021 still use."""

import collections
import collections.abc
import inspect

for _name in (
    "Callable", "Hashable", "Iterable", "Mapping", "MutableMapping", "MutableSequence", "MutableSet", "Sequence", "Set",
):
    if not hasattr(collections, _name):
        setattr(collections, _name, getattr(collections.abc, _name))

if not hasattr(inspect, "getargspec"):
    _ArgSpec = collections.namedtuple("ArgSpec", "args varargs keywords defaults")
    inspect.getargspec = lambda function: _ArgSpec(*inspect.getfullargspec(function)[:4])
