"""The language model under study: load it, read it at sites, continue from a site, edit it, generate."""

from chronosae.subject.chat import ChatTokens, Role, chat_tokens
from chronosae.subject.info import SubjectInfo, check_sites, inspect_subject
from chronosae.subject.model import Subject
from chronosae.subject.sites import SITE_KINDS, Site, SiteKind

__all__ = [
    "SITE_KINDS",
    "ChatTokens",
    "Role",
    "Site",
    "SiteKind",
    "Subject",
    "SubjectInfo",
    "chat_tokens",
    "check_sites",
    "inspect_subject",
]
