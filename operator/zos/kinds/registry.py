"""Every kind of the API, in the order of the reference. A new one is one line."""

from __future__ import annotations

from zos.kinds import claim, contract, farm, gridnode, namecontract, network, nodeworkload, publicip, quota, zmachine, zmount
from zos.kinds.kind import Kinds

KINDS = Kinds(
    (
        network.KIND,
        zmachine.KIND,
        zmount.KIND,
        publicip.KIND,
        contract.KIND,
        namecontract.KIND,
        farm.KIND,
        gridnode.KIND,
        quota.KIND,
        nodeworkload.KIND,
        claim.KIND,
    )
)
