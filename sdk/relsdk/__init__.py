"""tmp"""

from relsdk.embedder import Embedder
from relsdk.records import Document
