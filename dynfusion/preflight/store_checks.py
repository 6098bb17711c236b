"""What must be right where runs are kept and data are read: permissions, content, and the same for every node."""

from dynfusion.preflight.finding import Check, Finding, listed
from dynfusion.preflight.observations import Data, Observations, Storage

PERMISSIONS = {"write": "s3:PutObject", "list": "s3:ListBucket", "read": "s3:GetObject", "delete": "s3:DeleteObject"}
"""What each step of the probe file needs."""
_REACH = "check the endpoint (AWS_ENDPOINT_URL_S3, endpoint_override), AWS_REGION and the network to it"
_NOBODY = (
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "Unable to locate credentials",
    "security token",
    "Access Key Id you provided",
    "signature we calculated",
    "Bad Request",
)


def is_nobody(problem: str) -> bool:
    """Whether a store does not know who asks; no step can do better then."""
    return any(sign in problem for sign in _NOBODY)


def storage(seen: Observations) -> Finding | None:
    """Whether a file can be written, listed, read and deleted where runs are to be kept."""
    return None if seen.storage is None else _storage(seen.storage)


def _storage(found: Storage) -> Finding:
    where = found.uri.partition("?")[0]
    wrong = {step: problem for step, problem in found.problems.items() if problem is not None}
    if found.unanswered is not None:
        cure = "the store hangs: is the address right, does another machine reach it, does `df` or `aws s3 ls` answer?"
        return Finding("storage", "failed", f"{where}: {found.unanswered}", cure)
    if not wrong:
        return Finding(
            "storage", "ok", f"{where}: write, list, read and delete work, {found.seconds or 0:.1f} s in all"
        )
    steps = ", ".join(wrong)
    return Finding(
        "storage", "failed", f"cannot {steps}: {next(iter(wrong.values()))}", _storage_cure(found.uri, wrong)
    )


def _storage_cure(uri: str, wrong: dict[str, str]) -> str:
    said = " ".join(wrong.values())
    if not uri.startswith("s3://"):
        return "choose a folder that you may write to and whose disk is mounted (`ls -ld`, `df`), or an s3:// address"
    bucket = uri.removeprefix("s3://").partition("/")[0].partition("?")[0]
    if "no bucket" in said:
        return f"make it (`aws s3 mb s3://{bucket}`), or correct its name, region or endpoint (AWS_ENDPOINT_URL_S3)"
    if "another region" in said:
        return f"set AWS_REGION to that of the bucket (`aws s3api get-bucket-location --bucket {bucket}`)"
    if is_nobody(said):
        return (
            "give valid keys: AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the machine's role; "
            "they belong to this store and are not expired, and AWS_REGION is the bucket's"
        )
    if "denied" in said or "Forbidden" in said:
        needed = ", ".join(PERMISSIONS[step] for step in wrong)
        return f"allow {needed} to this user or role on s3://{bucket}"
    return _REACH


def storage_on_nodes(seen: Observations) -> Finding | None:
    """Whether every node writes to the same storage that this machine does."""
    looked = [node for node in seen.nodes if node.storage is not None]
    if seen.storage is None or not looked:
        return None
    for node in looked:
        assert node.storage is not None
        finding = _storage(node.storage)
        if finding.state != "ok":
            return Finding("storage on nodes", "failed", f"{node.name}: {finding.found}", finding.cure)
    apart = [node.name for node in looked if node.sees_marker is False]
    if apart:
        cure = (
            "mount one shared file system at this path on every machine, or use an s3:// address: checkpoints "
            "must be where every node sees them"
        )
        return Finding(
            "storage on nodes",
            "failed",
            f"{listed(apart)}: another folder than this machine's {seen.storage.uri}",
            cure,
        )
    return Finding("storage on nodes", "ok", f"the same for {len(looked)} nodes")


def data(seen: Observations) -> Finding | None:
    """Whether the data set has a valid manifest and all its files."""
    found = seen.data
    if found is None:
        return None
    where = found.uri.partition("?")[0]
    if found.unanswered is not None:
        cure = "its disk or store hangs: does `ls` or `aws s3 ls` answer there?"
        return Finding("data", "failed", f"{where}: {found.unanswered}", cure)
    if found.problem is not None and "denied" in found.problem:
        return Finding(
            "data",
            "failed",
            found.problem,
            "allow s3:GetObject and s3:ListBucket there, or check the keys (AWS_PROFILE)",
        )
    if found.problem is not None and where.startswith("s3://") and "no packed dataset" not in found.problem:
        return Finding("data", "failed", found.problem, _REACH)
    if found.problem is not None:
        cure = (
            "give the folder or s3:// address that `dynfusion pack --out` wrote, readable by this user; "
            "`dynfusion inspect` reads the same manifest"
        )
        return Finding("data", "failed", found.problem, cure)
    if found.wrong_files:
        cure = (
            "copy these files again from where the data set was packed, or pack it again; `dynfusion verify` "
            "names all that is wrong"
        )
        return Finding("data", "failed", listed(list(found.wrong_files)), cure)
    return Finding(
        "data",
        "ok",
        f"{where}: {found.rows} rows, {found.files} files of the right size, fingerprint {found.fingerprint}",
    )


def blocks(seen: Observations) -> Finding | None:
    """Whether a sample of blocks has its checksums."""
    found = seen.data
    if found is None or not found.blocks_read:
        return None
    if found.wrong_blocks:
        cure = (
            "copy the shard again from where it was packed, or pack again; `dynfusion verify` reads everything "
            "and names all that is wrong"
        )
        return Finding("blocks", "failed", listed(list(found.wrong_blocks)), cure)
    return Finding("blocks", "ok", f"{found.blocks_read} of {found.blocks} read, their checksums are right")


def data_on_nodes(seen: Observations) -> Finding | None:
    """Whether every node reads the same data set."""
    looked = {node.name: node.data for node in seen.nodes if node.data is not None}
    if seen.data is None or not looked:
        return None
    wrong = [f"{name}: {text}" for name, theirs in looked.items() if (text := _other(theirs, seen.data)) is not None]
    if wrong:
        cure = "copy the data set to that node's disk, mount the shared one there, or use its s3:// address"
        if seen.data.uri.startswith("s3://"):
            cure = _REACH
        return Finding("data on nodes", "failed", listed(wrong), cure)
    return Finding("data on nodes", "ok", f"the same fingerprint on {len(looked)} nodes")


def _other(theirs: Data, here: Data) -> str | None:
    if theirs.problem is not None:
        return theirs.problem
    if theirs.fingerprint != here.fingerprint:
        return f"fingerprint {theirs.fingerprint}, here {here.fingerprint}"
    return next(iter((*theirs.wrong_files, *theirs.wrong_blocks)), None)


CHECKS: tuple[Check, ...] = (storage, storage_on_nodes, data, blocks, data_on_nodes)
