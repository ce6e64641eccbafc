from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Opcode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPCODE_NONE: _ClassVar[Opcode]
    OPCODE_BYTES: _ClassVar[Opcode]
    OPCODE_KEEPALIVE: _ClassVar[Opcode]
    OPCODE_KEEPALIVE_RESPONSE: _ClassVar[Opcode]
    OPCODE_PROXY_RESPONSE: _ClassVar[Opcode]
    OPCODE_PING: _ClassVar[Opcode]
    OPCODE_PONG: _ClassVar[Opcode]
    OPCODE_LOOKUP_NODE_REQUEST: _ClassVar[Opcode]
    OPCODE_LOOKUP_NODE_RESPONSE: _ClassVar[Opcode]
    OPCODE_DISCONNECT: _ClassVar[Opcode]
    OPCODE_PROXY_REQUEST: _ClassVar[Opcode]
    OPCODE_METRIC_REQUEST: _ClassVar[Opcode]
    OPCODE_METRIC_RESPONSE: _ClassVar[Opcode]
    OPCODE_ASYNC_ACK_RESPONSE: _ClassVar[Opcode]
    OPCODE_HELLO: _ClassVar[Opcode]
    OPCODE_CHALLENGE: _ClassVar[Opcode]
    OPCODE_PROOF: _ClassVar[Opcode]
    OPCODE_WELCOME: _ClassVar[Opcode]
    OPCODE_REFUSAL: _ClassVar[Opcode]
    OPCODE_RELEASE: _ClassVar[Opcode]
    OPCODE_DRAINING: _ClassVar[Opcode]
    OPCODE_STREAM_OPEN: _ClassVar[Opcode]
    OPCODE_STREAM_DATA: _ClassVar[Opcode]
    OPCODE_STREAM_WINDOW: _ClassVar[Opcode]
    OPCODE_STREAM_END: _ClassVar[Opcode]
    OPCODE_STREAM_RESET: _ClassVar[Opcode]

class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODE_MESSAGES: _ClassVar[Mode]
    MODE_STREAMS: _ClassVar[Mode]

class Feature(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FEATURE_STREAMS: _ClassVar[Feature]
    FEATURE_RELEASE: _ClassVar[Feature]
    FEATURE_DRAINING: _ClassVar[Feature]

class RefusalCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REFUSAL_UNSPECIFIED: _ClassVar[RefusalCode]
    REFUSAL_MALFORMED: _ClassVar[RefusalCode]
    REFUSAL_UNSUPPORTED: _ClassVar[RefusalCode]
    REFUSAL_UNAUTHENTICATED: _ClassVar[RefusalCode]
    REFUSAL_DENIED: _ClassVar[RefusalCode]
    REFUSAL_QUOTA: _ClassVar[RefusalCode]
    REFUSAL_EXHAUSTED: _ClassVar[RefusalCode]
    REFUSAL_ADDRESS_UNAVAILABLE: _ClassVar[RefusalCode]
    REFUSAL_SUPERSEDED: _ClassVar[RefusalCode]
    REFUSAL_DRAINING: _ClassVar[RefusalCode]

class ResetCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESET_UNSPECIFIED: _ClassVar[ResetCode]
    RESET_ABORTED: _ClassVar[ResetCode]
    RESET_ENDED: _ClassVar[ResetCode]
    RESET_UNWANTED: _ClassVar[ResetCode]
    RESET_LEASE_GONE: _ClassVar[ResetCode]
    RESET_NO_ROOM: _ClassVar[ResetCode]
OPCODE_NONE: Opcode
OPCODE_BYTES: Opcode
OPCODE_KEEPALIVE: Opcode
OPCODE_KEEPALIVE_RESPONSE: Opcode
OPCODE_PROXY_RESPONSE: Opcode
OPCODE_PING: Opcode
OPCODE_PONG: Opcode
OPCODE_LOOKUP_NODE_REQUEST: Opcode
OPCODE_LOOKUP_NODE_RESPONSE: Opcode
OPCODE_DISCONNECT: Opcode
OPCODE_PROXY_REQUEST: Opcode
OPCODE_METRIC_REQUEST: Opcode
OPCODE_METRIC_RESPONSE: Opcode
OPCODE_ASYNC_ACK_RESPONSE: Opcode
OPCODE_HELLO: Opcode
OPCODE_CHALLENGE: Opcode
OPCODE_PROOF: Opcode
OPCODE_WELCOME: Opcode
OPCODE_REFUSAL: Opcode
OPCODE_RELEASE: Opcode
OPCODE_DRAINING: Opcode
OPCODE_STREAM_OPEN: Opcode
OPCODE_STREAM_DATA: Opcode
OPCODE_STREAM_WINDOW: Opcode
OPCODE_STREAM_END: Opcode
OPCODE_STREAM_RESET: Opcode
MODE_MESSAGES: Mode
MODE_STREAMS: Mode
FEATURE_STREAMS: Feature
FEATURE_RELEASE: Feature
FEATURE_DRAINING: Feature
REFUSAL_UNSPECIFIED: RefusalCode
REFUSAL_MALFORMED: RefusalCode
REFUSAL_UNSUPPORTED: RefusalCode
REFUSAL_UNAUTHENTICATED: RefusalCode
REFUSAL_DENIED: RefusalCode
REFUSAL_QUOTA: RefusalCode
REFUSAL_EXHAUSTED: RefusalCode
REFUSAL_ADDRESS_UNAVAILABLE: RefusalCode
REFUSAL_SUPERSEDED: RefusalCode
REFUSAL_DRAINING: RefusalCode
RESET_UNSPECIFIED: ResetCode
RESET_ABORTED: ResetCode
RESET_ENDED: ResetCode
RESET_UNWANTED: ResetCode
RESET_LEASE_GONE: ResetCode
RESET_NO_ROOM: ResetCode

class ID(_message.Message):
    __slots__ = ("net_key", "address", "id", "connection_id", "address2")
    NET_KEY_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS2_FIELD_NUMBER: _ClassVar[int]
    net_key: bytes
    address: str
    id: bytes
    connection_id: bytes
    address2: str
    def __init__(self, net_key: _Optional[bytes] = ..., address: _Optional[str] = ..., id: _Optional[bytes] = ..., connection_id: _Optional[bytes] = ..., address2: _Optional[str] = ...) -> None: ...

class Message(_message.Message):
    __slots__ = ("message", "sender", "signature", "request_nonce", "message_nonce", "reply_flag", "opcode", "netID", "MessageID", "need_ack")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_NONCE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_NONCE_FIELD_NUMBER: _ClassVar[int]
    REPLY_FLAG_FIELD_NUMBER: _ClassVar[int]
    OPCODE_FIELD_NUMBER: _ClassVar[int]
    NETID_FIELD_NUMBER: _ClassVar[int]
    MESSAGEID_FIELD_NUMBER: _ClassVar[int]
    NEED_ACK_FIELD_NUMBER: _ClassVar[int]
    message: bytes
    sender: ID
    signature: bytes
    request_nonce: int
    message_nonce: int
    reply_flag: bool
    opcode: int
    netID: int
    MessageID: str
    need_ack: bool
    def __init__(self, message: _Optional[bytes] = ..., sender: _Optional[_Union[ID, _Mapping]] = ..., signature: _Optional[bytes] = ..., request_nonce: _Optional[int] = ..., message_nonce: _Optional[int] = ..., reply_flag: _Optional[bool] = ..., opcode: _Optional[int] = ..., netID: _Optional[int] = ..., MessageID: _Optional[str] = ..., need_ack: _Optional[bool] = ...) -> None: ...

class Keepalive(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class KeepaliveResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Ping(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Pong(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Disconnect(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Bytes(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class ProxyRequest(_message.Message):
    __slots__ = ("origin_address", "proxy_address", "mode", "label")
    ORIGIN_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PROXY_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    origin_address: str
    proxy_address: str
    mode: Mode
    label: str
    def __init__(self, origin_address: _Optional[str] = ..., proxy_address: _Optional[str] = ..., mode: _Optional[_Union[Mode, str]] = ..., label: _Optional[str] = ...) -> None: ...

class ProxyResponse(_message.Message):
    __slots__ = ("origin_address", "proxy_address", "expires_in_ms", "hold_ms", "generation", "mode")
    ORIGIN_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PROXY_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_IN_MS_FIELD_NUMBER: _ClassVar[int]
    HOLD_MS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    origin_address: str
    proxy_address: str
    expires_in_ms: int
    hold_ms: int
    generation: int
    mode: Mode
    def __init__(self, origin_address: _Optional[str] = ..., proxy_address: _Optional[str] = ..., expires_in_ms: _Optional[int] = ..., hold_ms: _Optional[int] = ..., generation: _Optional[int] = ..., mode: _Optional[_Union[Mode, str]] = ...) -> None: ...

class MetricRequest(_message.Message):
    __slots__ = ("send_timestamp", "raw_data")
    SEND_TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    RAW_DATA_FIELD_NUMBER: _ClassVar[int]
    send_timestamp: int
    raw_data: bytes
    def __init__(self, send_timestamp: _Optional[int] = ..., raw_data: _Optional[bytes] = ...) -> None: ...

class MetricResponse(_message.Message):
    __slots__ = ("send_timestamp", "raw_data")
    SEND_TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    RAW_DATA_FIELD_NUMBER: _ClassVar[int]
    send_timestamp: int
    raw_data: bytes
    def __init__(self, send_timestamp: _Optional[int] = ..., raw_data: _Optional[bytes] = ...) -> None: ...

class AsyncAckResponse(_message.Message):
    __slots__ = ("send_timestamp", "message_id")
    SEND_TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    send_timestamp: int
    message_id: str
    def __init__(self, send_timestamp: _Optional[int] = ..., message_id: _Optional[str] = ...) -> None: ...

class LookupNodeRequest(_message.Message):
    __slots__ = ("target",)
    TARGET_FIELD_NUMBER: _ClassVar[int]
    target: ID
    def __init__(self, target: _Optional[_Union[ID, _Mapping]] = ...) -> None: ...

class LookupNodeResponse(_message.Message):
    __slots__ = ("peers",)
    PEERS_FIELD_NUMBER: _ClassVar[int]
    peers: _containers.RepeatedCompositeFieldContainer[ID]
    def __init__(self, peers: _Optional[_Iterable[_Union[ID, _Mapping]]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("version", "features", "client_nonce", "initial_window")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    CLIENT_NONCE_FIELD_NUMBER: _ClassVar[int]
    INITIAL_WINDOW_FIELD_NUMBER: _ClassVar[int]
    version: int
    features: int
    client_nonce: bytes
    initial_window: int
    def __init__(self, version: _Optional[int] = ..., features: _Optional[int] = ..., client_nonce: _Optional[bytes] = ..., initial_window: _Optional[int] = ...) -> None: ...

class Challenge(_message.Message):
    __slots__ = ("version", "server_nonce", "relay_id", "binding_type", "valid_for_ms")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SERVER_NONCE_FIELD_NUMBER: _ClassVar[int]
    RELAY_ID_FIELD_NUMBER: _ClassVar[int]
    BINDING_TYPE_FIELD_NUMBER: _ClassVar[int]
    VALID_FOR_MS_FIELD_NUMBER: _ClassVar[int]
    version: int
    server_nonce: bytes
    relay_id: bytes
    binding_type: int
    valid_for_ms: int
    def __init__(self, version: _Optional[int] = ..., server_nonce: _Optional[bytes] = ..., relay_id: _Optional[bytes] = ..., binding_type: _Optional[int] = ..., valid_for_ms: _Optional[int] = ...) -> None: ...

class Proof(_message.Message):
    __slots__ = ("signature", "token_id", "token_signature")
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    signature: bytes
    token_id: bytes
    token_signature: bytes
    def __init__(self, signature: _Optional[bytes] = ..., token_id: _Optional[bytes] = ..., token_signature: _Optional[bytes] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("features", "proved", "keepalive_ms", "lease_ttl_ms", "proved_ttl_ms", "hold_ms", "max_leases", "max_streams", "max_visitors", "max_frame_bytes", "lease_bytes_per_second", "visitors_per_second")
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    PROVED_FIELD_NUMBER: _ClassVar[int]
    KEEPALIVE_MS_FIELD_NUMBER: _ClassVar[int]
    LEASE_TTL_MS_FIELD_NUMBER: _ClassVar[int]
    PROVED_TTL_MS_FIELD_NUMBER: _ClassVar[int]
    HOLD_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_LEASES_FIELD_NUMBER: _ClassVar[int]
    MAX_STREAMS_FIELD_NUMBER: _ClassVar[int]
    MAX_VISITORS_FIELD_NUMBER: _ClassVar[int]
    MAX_FRAME_BYTES_FIELD_NUMBER: _ClassVar[int]
    LEASE_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    VISITORS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    features: int
    proved: bool
    keepalive_ms: int
    lease_ttl_ms: int
    proved_ttl_ms: int
    hold_ms: int
    max_leases: int
    max_streams: int
    max_visitors: int
    max_frame_bytes: int
    lease_bytes_per_second: int
    visitors_per_second: float
    def __init__(self, features: _Optional[int] = ..., proved: _Optional[bool] = ..., keepalive_ms: _Optional[int] = ..., lease_ttl_ms: _Optional[int] = ..., proved_ttl_ms: _Optional[int] = ..., hold_ms: _Optional[int] = ..., max_leases: _Optional[int] = ..., max_streams: _Optional[int] = ..., max_visitors: _Optional[int] = ..., max_frame_bytes: _Optional[int] = ..., lease_bytes_per_second: _Optional[int] = ..., visitors_per_second: _Optional[float] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("code", "reason", "retry_after_ms")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    code: RefusalCode
    reason: str
    retry_after_ms: int
    def __init__(self, code: _Optional[_Union[RefusalCode, str]] = ..., reason: _Optional[str] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...

class Release(_message.Message):
    __slots__ = ("origin_address",)
    ORIGIN_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    origin_address: str
    def __init__(self, origin_address: _Optional[str] = ...) -> None: ...

class Draining(_message.Message):
    __slots__ = ("reconnect_in_ms", "try_for_ms")
    RECONNECT_IN_MS_FIELD_NUMBER: _ClassVar[int]
    TRY_FOR_MS_FIELD_NUMBER: _ClassVar[int]
    reconnect_in_ms: int
    try_for_ms: int
    def __init__(self, reconnect_in_ms: _Optional[int] = ..., try_for_ms: _Optional[int] = ...) -> None: ...

class StreamOpen(_message.Message):
    __slots__ = ("visitor_address", "proxy_address", "origin_address", "initial_window", "server_window")
    VISITOR_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PROXY_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    INITIAL_WINDOW_FIELD_NUMBER: _ClassVar[int]
    SERVER_WINDOW_FIELD_NUMBER: _ClassVar[int]
    visitor_address: str
    proxy_address: str
    origin_address: str
    initial_window: int
    server_window: int
    def __init__(self, visitor_address: _Optional[str] = ..., proxy_address: _Optional[str] = ..., origin_address: _Optional[str] = ..., initial_window: _Optional[int] = ..., server_window: _Optional[int] = ...) -> None: ...

class StreamWindow(_message.Message):
    __slots__ = ("credit",)
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    credit: int
    def __init__(self, credit: _Optional[int] = ...) -> None: ...

class StreamEnd(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StreamReset(_message.Message):
    __slots__ = ("code", "reason")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    code: ResetCode
    reason: str
    def __init__(self, code: _Optional[_Union[ResetCode, str]] = ..., reason: _Optional[str] = ...) -> None: ...
