"""What S3 can answer, in a user's words: what a person must mend, and what may pass by itself.

Pure tables over S3's codes and the names of boto3's classes: boto3 itself is known to `ml.storage.store` only.
"""

from urllib.parse import urlsplit

from ml.errors import ConfigError, StoreUnavailable

CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
REGION = ("the bucket is in another region", "set AWS_REGION")
KMS_KEY = ("its key cannot be used", "mend RETRAIN_S3_ENCRYPTION")
# What no retry mends, by S3's code or boto3's class: what was seen, and the next step.
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
    """The error of the store at `uri` as a sentence; ConfigError where a retry would see the same again."""
    name = code(error)
    endpoint = urlsplit(getattr(error, "kwargs", {}).get("endpoint_url") or "")
    about = {
        "operation": getattr(error, "operation_name", "it"),
        "endpoint": f"{endpoint.scheme}://{endpoint.netloc}",
    }
    if name in REFUSALS:
        seen, next_step = REFUSALS[name]
        return ConfigError(f"the store {uri} must be open to us", f"{seen.format(**about)} ({name})", next_step)
    words = (OUTAGES | BROKEN).get(name) or (UNREADABLE if name.isdigit() else None)
    seen = f"{words.format(**about)} ({name})" if words else first_line(error)
    return StoreUnavailable(
        f"the store {uri} must answer", seen, "check the network and the S3 server, and run it again"
    )


def broke_on_its_way(error: Exception) -> bool:
    """Bytes were lost or changed, so that another attempt may well succeed."""
    name = code(error)
    return name in BROKEN or name.isdigit()


def code(error: Exception) -> str:
    """S3's code of what it answered, else the HTTP status; or the class of what boto3 met."""
    answer = getattr(error, "response", None)
    if not isinstance(answer, dict):
        return type(error).__name__
    return str(answer["Error"].get("Code") or answer["ResponseMetadata"]["HTTPStatusCode"])


def first_line(error: Exception) -> str:
    """Without the colons that part a sentence."""
    return (str(error).splitlines() or [""])[0][:200].rstrip(". ").replace(": ", " - ")
