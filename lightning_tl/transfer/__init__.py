"""Ways to transfer a pre-trained backbone to a task: what is trained, from where, and how it is held back."""

from lightning_tl.transfer.adapter import Adapter
from lightning_tl.transfer.average import Average
from lightning_tl.transfer.chain import TransferChain
from lightning_tl.transfer.ewc import EWC
from lightning_tl.transfer.l2sp import L2SP
from lightning_tl.transfer.layerwise import Layerwise
from lightning_tl.transfer.lora import LoRA
from lightning_tl.transfer.method import Full, TransferMethod
from lightning_tl.transfer.partial import Partial
from lightning_tl.transfer.replay import Replay
from lightning_tl.transfer.sam import SAM
from lightning_tl.transfer.selection import BitFit, BNOnly, FreezeStages, LinearProbe
from lightning_tl.transfer.unfreezing import LPFT, Unfreeze
from lightning_tl.transfer.wiseft import WiSEFT

__all__ = [
    "EWC",
    "L2SP",
    "LPFT",
    "SAM",
    "Adapter",
    "Average",
    "BNOnly",
    "BitFit",
    "FreezeStages",
    "Full",
    "Layerwise",
    "LinearProbe",
    "LoRA",
    "Partial",
    "Replay",
    "TransferChain",
    "TransferMethod",
    "Unfreeze",
    "WiSEFT",
]
