"""local/token_list.py: ESPnet's token lists, and warnings about what they lack."""

from pathlib import Path

from driver_data import assert_one_line_error, run_helper


def make_list(tmp_path: Path, text: str, *options: str | Path) -> list[str]:
    (tmp_path / "text").write_text(text)
    arguments = ("--text", tmp_path / "text", "--output", tmp_path / "tokens", *options)
    done = run_helper("token_list.py", *arguments)
    assert done.returncode == 0, done.stderr
    return (tmp_path / "tokens" / "tokens.txt").read_text().splitlines()


def test_char(tmp_path: Path) -> None:
    tokens = make_list(tmp_path, "u1 好 好好 你\nu2 你他\n", "--token_type", "char")
    assert tokens == ["<blank>", "<unk>", "好", "<space>", "你", "他", "<sos/eos>"]


def test_word(tmp_path: Path) -> None:
    tokens = make_list(tmp_path, "u1 b a b\n", "--token_type", "word")
    assert tokens == ["<blank>", "<unk>", "b", "a", "<sos/eos>"]


def test_bpe(tmp_path: Path) -> None:
    lines = "".join(f"u{n} HELLO WORLD LOW HELL {n % 3}\n" for n in range(20))
    tokens = make_list(tmp_path, lines, "--token_type", "bpe", "--nbpe", "14")
    assert len(tokens) == 14
    assert tokens[:2] == ["<blank>", "<unk>"] and tokens[-1] == "<sos/eos>"
    assert "<s>" not in tokens and "\u2581" in "".join(tokens)
    assert (tmp_path / "tokens" / "bpe.model").is_file()


def test_bpe_too_large(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("u1 AB\n")
    arguments = ("--text", tmp_path / "text", "--output", tmp_path / "tokens")
    done = run_helper("token_list.py", *arguments, "--token_type", "bpe", "--nbpe", "5000")
    assert_one_line_error(done, "--nbpe 5000: sentencepiece:")
    assert not (tmp_path / "tokens").exists()


def test_unknown_symbols(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("u1 abc abd\n")
    (tmp_path / "dev").write_text("v1 abx\nv2 b x\n")
    arguments = ("--text", tmp_path / "text", "--output", tmp_path / "tokens")
    check = ("--check", tmp_path / "dev")
    done = run_helper("token_list.py", *arguments, "--token_type", "char", *check)
    assert_one_line_error(done, "dev: utterance v1 has 'x', not in")
    assert "--allow_unk true" in done.stderr
    done = run_helper(
        "token_list.py", *arguments, "--token_type", "char", *check, "--allow_unk", "true"
    )
    assert done.returncode == 0, done.stderr
    assert "v1 has 'x'" in done.stdout
    # words that training lacks are nothing unusual
    done = run_helper("token_list.py", *arguments, "--token_type", "word", *check)
    assert done.returncode == 0, done.stderr
