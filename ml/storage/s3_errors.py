"""The errors of S3 and boto3 as sentences for a user, and whether a retry may help.

These are tables over S3's error codes and the names of boto3's exception classes. Only `ml.storage.store` imports
boto3 itself.
"""

from urllib.parse import urlsplit

from ml.errors import ConfigError, StoreUnavailable

CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
REGION = ("the bucket is in another region", "set AWS_REGION")
KMS_KEY = ("its key cannot be used", "mend RETRAIN_S3_ENCRYPTION")
# Errors that no retry mends, by S3's code or boto3's class: what was seen, and the next step. They become ConfigError.
REFUSALS = {
    "NoSuchBucket": ("there is no such bucket", "create it, or mend RETRAIN_STORE"),
    "InvalidBucketName": ("no bucket can have that name", "mend RETRAIN_STORE"),
    "ParamValidationError": ("no bucket can have that name", "mend RETRAIN_STORE"),
    "AccessDenied": (
        "{operation} is not allowed", "allow s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject to it"
    ),
    "InvalidAccessKeyId": ("the access key is unknown", CREDENTIALS),
    "SignatureDoesNotMatch": ("the secret key is wrong", CREDENTIALS),
    "InvalidToken": ("the session token is wrong", "unset AWS_SESSION_TOKEN, or set a new one"),
    "ExpiredToken": ("the session token has expired", "set a new AWS_SESSION_TOKEN"),
    "NoCredentialsError": ("there are no credentials", CREDENTIALS),
    "PartialCredentialsError": ("half of the credentials is missing", CREDENTIALS),
    "ProfileNotFound": ("the profile of AWS_PROFILE does not exist", CREDENTIALS),
    "ConfigParseError": ("the AWS configuration file cannot be read", "mend it"),
    "SSOTokenLoadError": ("nobody is signed in", "run aws sso login"),
    "UnauthorizedSSOTokenError": ("the sign-in has expired", "run aws sso login"),
    "InvalidChecksumConfigError": (
        "a checksum setting is unknown",
        "set AWS_REQUEST_CHECKSUM_CALCULATION and AWS_RESPONSE_CHECKSUM_VALIDATION to when_supported or when_required",
    ),
    "InvalidRegionError": ("no region has that name", "mend AWS_REGION"),
    "PermanentRedirect": REGION,
    "AuthorizationHeaderMalformed": REGION,
    "IllegalLocationConstraintException": REGION,
    "RequestTimeTooSkewed": ("this machine's clock is wrong", "set it"),
    "InvalidEncryptionAlgorithmError": ("the server does not encrypt so", "mend RETRAIN_S3_ENCRYPTION"),
    "KMS.NotFoundException": KMS_KEY,
    "KMS.DisabledException": KMS_KEY,
    "KMS.KMSInvalidStateException": KMS_KEY,
    "NotImplemented": ("the server lacks what {operation} asks", "use one with conditional writes and the encryption"),
}  # fmt: skip
# Errors that may pass by themselves. They become StoreUnavailable.
OUTAGES = {
    "EndpointConnectionError": "{endpoint} cannot be reached",
    "ConnectTimeoutError": "{endpoint} cannot be reached",
    "ReadTimeoutError": "{endpoint} fell silent",
    "ConnectionClosedError": "{endpoint} closed the connection",
    "SSLError": "the certificate of {endpoint} is refused",
    "SlowDown": "it asks for fewer requests",
    "ServiceUnavailable": "it cannot serve now",
    "InternalError": "it failed inside",
}
# Errors of bytes that were lost or changed on their way. An attempt at once may succeed; else StoreUnavailable.
BROKEN = {
    "ResponseStreamingError": "its answer broke off",
    "ProtocolError": "its answer broke off",
    "IncompleteReadError": "its answer broke off",
    "ResponseParserError": "its answer cannot be read",
    "FlexibleChecksumError": "what arrived has another checksum",
    "BadDigest": "what arrived has another checksum",
    "InvalidDigest": "what arrived has another checksum",
    "XAmzContentSHA256Mismatch": "what arrived has another checksum",
    "XAmzContentChecksumMismatch": "what arrived has another checksum",
    "IncompleteBody": "what was sent broke off",
    "NoSuchUpload": "an upload in parts was lost",
    "ConditionalRequestConflict": "another writer came in between",
    "OperationAborted": "another writer came in between",
}
UNREADABLE = "it answered without a word of S3"


def in_words(error: Exception, uri: str) -> ConfigError | StoreUnavailable:
    """The error of the store at `uri` in our form: ConfigError if a retry would fail again, else StoreUnavailable."""
    name = code(error)
    endpoint = urlsplit(getattr(error, "kwargs", {}).get("endpoint_url") or "")
    about = {
        "operation": getattr(error, "operation_name", "it"),
        "endpoint": f"{endpoint.scheme}://{endpoint.netloc}",
    }
    if name in REFUSALS:
        problem, next_step = REFUSALS[name]
        return ConfigError(f"the store {uri} must be open to us", f"{problem.format(**about)} ({name})", next_step)
    words = (OUTAGES | BROKEN).get(name) or (UNREADABLE if name.isdigit() else None)
    problem = f"{words.format(**about)} ({name})" if words else first_line(error)
    return StoreUnavailable(
        f"the store {uri} must answer", problem, "check the network and the S3 server, and run it again"
    )


def broke_on_its_way(error: Exception) -> bool:
    """Whether bytes were lost or changed on their way, so that another attempt may succeed."""
    name = code(error)
    return name in BROKEN or name.isdigit()


def code(error: Exception) -> str:
    """S3's error code, or the HTTP status of an answer without a code; the name of the class for any other error."""
    answer = getattr(error, "response", None)
    if not isinstance(answer, dict):
        return type(error).__name__
    return str(answer["Error"].get("Code") or answer["ResponseMetadata"]["HTTPStatusCode"])


def first_line(error: Exception) -> str:
    """The first line of the error's text, cut to 200 characters, without colons, which our sentences use themselves."""
    return (str(error).splitlines() or [""])[0][:200].rstrip(". ").replace(": ", " - ")
