"""gencli chat: a conversation with a model, turn by turn."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING

from gencli.cli.app import app
from gencli.cli.options import command
from gencli.errors import GencliError
from gencli.settings.decoding import ChatSettings

if TYPE_CHECKING:
    from gencli.cli.chat_file import ChatFiles
    from gencli.cli.lines import Keyboard, Piped
    from gencli.cli.recalling import Recalling
    from gencli.decoding.conversation import Conversation
    from gencli.decoding.decoder import Engine, Slide, Token
    from gencli.model.folder import ModelFolder
    from gencli.text.tokenizer import Tokenizer
    from gencli.ui import Screen


@command(
    app,
    ChatSettings,
    example="gencli chat -m models/qa\n"
    'gencli chat -m models/qa --system "Answer in one sentence." --load yesterday.json\n'
    "gencli chat -m models/qa < questions.txt > answers.txt",
)
def chat(settings: ChatSettings) -> None:
    """Talk with a model, which remembers what was said.

    Ctrl-C stops an answer, Ctrl-D or /quit leaves, /help lists all commands. A line that ends with a backslash
    goes on in the next one; so do all between three double quotes. From a pipe each line is a turn. A model that
    was only pretrained continues your text instead.
    """
    from gencli.cli.chat_commands import load_chat
    from gencli.cli.chat_file import ChatFiles
    from gencli.cli.pipes import is_piped
    from gencli.ui import Screen

    settings.check()
    screen = Screen(quiet=settings.quiet)
    talk = _opened(settings, screen, ChatFiles())
    if settings.load is not None:
        load_chat(talk, settings.load)
    if settings.system is not None:
        talk.conversation.system = settings.system
    _greet(talk, settings, typed=not is_piped())
    if is_piped():
        from gencli.cli.lines import Piped

        _answer_lines(talk, Piped())
    else:
        from gencli.cli.lines import Keyboard
        from gencli.cli.places import cache_folder

        history = None if settings.history is False else cache_folder() / "chat_history.jsonl"
        _converse(talk, Keyboard(history, screen))


@dataclass
class Talk:
    """A conversation with an opened model."""

    settings: ChatSettings
    engine: Engine
    tokenizer: Tokenizer
    conversation: Conversation
    files: ChatFiles
    screen: Screen
    seed: int
    recalling: Recalling | None = None
    count: int = 0  # answers so far: each has a random stream of its own


def _opened(settings: ChatSettings, screen: Screen, files: ChatFiles) -> Talk:
    from gencli.cli.places import cache_folder
    from gencli.cli.recalling import open_recalling
    from gencli.decoding.conversation import Conversation
    from gencli.decoding.engines import open_engine
    from gencli.decoding.reuse import ReusingEngine
    from gencli.model.folder import open_model

    folder = open_model(settings.model, cache_folder())
    engine = ReusingEngine(
        open_engine(folder, engine=settings.engine, device=settings.device, precision=settings.precision)
    )
    recalling = open_recalling(folder, engine) if settings.recall else None
    conversation = Conversation(
        folder.tokenizer,
        context=engine.context,
        room=settings.max_new_tokens,
        chat=folder.is_chat,
        remember=_remembered(settings, folder, screen),
    )
    seed = secrets.randbits(31) if settings.seed is None else settings.seed
    return Talk(settings, engine, folder.tokenizer, conversation, files, screen, seed, recalling)


def _remembered(settings: ChatSettings, folder: ModelFolder, screen: Screen) -> int | None:
    """Return how many turns are read with a question, and say what to know of that."""
    if settings.remember is not None or not folder.is_chat:
        return settings.remember
    if folder.task.has_labels:
        screen.note("this model was taught labels: each text is read by itself", "dim")
        return 0
    if folder.lineage.get("turns") == 1:
        screen.note("this model was taught single questions; --remember 0 has it read each by itself", "dim")
    return None


def _greet(talk: Talk, settings: ChatSettings, *, typed: bool) -> None:
    """Say what there is to know before the first turn."""
    if not talk.conversation.chat:
        talk.screen.note("this model was not fine-tuned: it continues your text, and answers nothing")
        talk.screen.note(
            f"to teach it answers: gencli finetune PAIRS -m {settings.model} -o models/answers", "dim"
        )
    if settings.seed is None and settings.temperature > 0:
        talk.screen.note(f"seed {talk.seed}")
    if typed:
        talk.screen.note("/help lists the commands, Ctrl-D leaves", "dim")


def _answer_lines(talk: Talk, lines: Piped) -> None:
    """Answer what is piped in; the first error ends it."""
    from gencli.cli.chat_commands import obeyed
    from gencli.cli.lines import turn_of

    with contextlib.suppress(EOFError):
        while True:
            turn = turn_of(lines)
            question = obeyed(talk, turn)
            if question is None:
                return
            if question.strip() and not answer(talk, question):
                raise KeyboardInterrupt


def _converse(talk: Talk, keyboard: Keyboard) -> None:
    """Answer what is typed until the user leaves; errors are told and the chat goes on."""
    from gencli.cli.chat_commands import obeyed
    from gencli.cli.lines import turn_of
    from gencli.ui import end_line

    warned = False
    while True:
        try:
            turn = turn_of(keyboard)
            if turn.strip():
                warned = False
                keyboard.note(turn)
                question = obeyed(talk, turn)
                if question is None:
                    return
                if question.strip():
                    answer(talk, question)
        except EOFError:
            end_line()
            return
        except KeyboardInterrupt:
            end_line()
            if warned and not keyboard.had_text():
                raise
            warned = not keyboard.had_text()
            if warned:
                talk.screen.note("Ctrl-C again or Ctrl-D leaves", "dim")
        except UnicodeDecodeError:
            talk.screen.note("this line is not UTF-8")
        except GencliError as error:
            talk.screen.error(error.lines())


@dataclass
class Stop:
    """Remembers a Ctrl-C; one more interrupts at once, whatever is being done."""

    asked: bool = False

    def _handle(self, _: int, __: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    @contextlib.contextmanager
    def watched(self) -> Iterator[Stop]:
        """Handle the signal for the time of the block."""
        before = signal.signal(signal.SIGINT, self._handle)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, before)


@dataclass
class _Answer:
    """What was written, and what is to be told after it."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish: str = "interrupted"
    ended: bool = False  # by the model itself
    forgotten: int = 0
    slides: list[Slide] = field(default_factory=list)


def answer(talk: Talk, question: str) -> bool:
    """Write the answer to a question as it comes; return whether it was let finish.

    Both are remembered, also when a Ctrl-C stopped it, unless there is nothing in the answer.
    """
    from gencli.decoding.conversation import Exchange
    from gencli.ui import emit, write

    prompt = talk.conversation.prompt(question)
    _tell_dropped(talk, prompt.dropped)
    written = _Answer(forgotten=prompt.dropped)
    with Stop().watched() as stop:
        for event in _events(talk, prompt.ids):
            _take(written, event, talk)
            if stop.asked or written.finish != "interrupted":
                break
    talk.count += 1
    said = _said(talk, written, question, prompt.ids)
    if talk.settings.json:
        emit(
            {"event": "answer", "turn": talk.count, "prompt": question, "text": written.text,
             "tokens": len(written.tokens), "finish": written.finish, "seed": talk.seed,
             "forgotten": written.forgotten, **said}
        )  # fmt: skip
    else:
        write("\n")
    if written.text.strip():
        talk.conversation.exchanges.append(Exchange(question, written.text))
    _tell_end(talk, written)
    return written.finish != "interrupted"


def _said(talk: Talk, written: _Answer, question: str, prompt: list[int]) -> dict[str, object]:
    """Write an answer that had to wait for what is looked up; return, as part of a record, what that came to."""
    from gencli.cli.recalling import tell_source
    from gencli.ui import write

    if talk.recalling is None:
        return {}
    said: dict[str, object] = {}
    found = None
    if written.finish != "interrupted":
        said, found = talk.recalling.surer(written.tokens, question, prompt)
        written.text = str(said["text"])
        written.finish = "stop" if found is not None else written.finish
    if not talk.settings.json:
        write(written.text)
        if found is not None:
            tell_source(talk.screen, found)
    return said


def _events(talk: Talk, prompt: list[int]) -> Iterator[Token | Slide]:
    """Yield the tokens of an answer; what stands before the first exchange is kept beyond the context."""
    import dataclasses

    from gencli.decoding.writing import write_texts

    keep = max(talk.settings.keep, talk.conversation.head) if talk.settings.keep else 0
    settings = dataclasses.replace(talk.settings, keep=keep)
    events = write_texts(
        talk.engine, talk.tokenizer, [prompt], settings, seed=talk.seed, numbers=[talk.count],
        logprobs=None if talk.recalling is None else 0,
    )  # fmt: skip
    with talk.screen.patient("compiling the decoding loop for this machine, once"):
        first = next(events)
    yield from itertools.chain([first], events)


def _take(written: _Answer, event: Token | Slide, talk: Talk) -> None:
    from gencli.decoding.decoder import Slide
    from gencli.ui import write

    if isinstance(event, Slide):
        written.slides.append(event)
        return
    written.tokens.append(event)
    written.text += event.text
    written.finish = event.finish or written.finish
    written.ended = event.finish == "stop" and event.id == talk.tokenizer.eos
    if event.text and not talk.settings.json and talk.recalling is None:
        write(event.text)


def _tell_dropped(talk: Talk, dropped: int) -> None:
    if dropped and talk.conversation.remember is None:
        turns = (
            "the oldest turn no longer fits" if dropped == 1 else f"the {dropped} oldest turns no longer fit"
        )
        talk.screen.note(f"{turns} into the context and will not be read any more", "dim")


def _tell_end(talk: Talk, written: _Answer) -> None:
    """Say how the answer ended, where that is not as it should be."""
    note = talk.screen.note
    if written.slides:
        note(
            "this turn is longer than the context: the model read or wrote its end without its beginning",
            "dim",
        )
    if written.finish == "interrupted":
        note("stopped", "dim")
    elif written.finish == "length":
        note(f"cut at {len(written.tokens):,} tokens; -n gives more", "dim")
    if not written.text.strip():
        note("there was no answer, so this turn is forgotten", "dim")
    elif written.ended and not talk.conversation.chat:
        talk.conversation.forget()
        note("the text ended here; what comes next begins a new one", "dim")
