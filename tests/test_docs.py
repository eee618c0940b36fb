"The docs site: what is on it, what must not be, and where every link of it leads."
import json
import re
import shutil
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

from helpers import refused
from visft_nb.core import InputError
from visft_nb.course import docs
from visft_nb.course.book import book_dir, notebooks, read_notebook

pytest.importorskip('smalldocs', reason="the site is rendered by smalldocs: pip install 'visft_nb[docs]'")
BOOK = book_dir()
SECRET = 'the-planted-solution-8c1f'


def notebook(*cells):
    return json.dumps(dict(metadata={}, nbformat=4, nbformat_minor=5, cells=[
        dict(cell_type=kind, metadata={}, source=source, **({} if kind == 'markdown' else dict(outputs=list(out), execution_count=None)))
        for kind, source, *out in cells]))


def copy_book(to):
    to.mkdir(parents=True)
    for name in ('nbs', '_quarto.yml', 'settings.ini', 'pyproject.toml'):
        path = BOOK/name
        if path.is_dir(): shutil.copytree(path, to/name, ignore=shutil.ignore_patterns('.*'))
        elif path.exists(): shutil.copy(path, to/name)
    return to


def build_site(top):
    "The real book's site, with a solution planted among its assignments."
    book = copy_book(top/'book')
    plant = book/'nbs/assignments/release/99_planted.ipynb'
    plant.parent.mkdir(parents=True, exist_ok=True)
    plant.write_text(notebook(('markdown', f'# {SECRET}'), ('code', f'answer = "{SECRET}"')))
    (book/'nbs/assignments/98_planted.ipynb').write_text(plant.read_text())
    (book/'nbs/assignments/notes.txt').write_text(SECRET)
    before = {p: p.read_bytes() for p in book.rglob('*') if p.is_file()}
    docs.build_docs(top/'site', book)
    assert {p: p.read_bytes() for p in book.rglob('*') if p.is_file()} == before, 'the build changed the book'


class Page(HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.links, self.ids, self.images = [], [], []
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if attrs.get('id'): self.ids.append(attrs['id'])
        if tag == 'img': self.images.append(attrs)
        self.links += [attrs[k] for k in ('href', 'src') if attrs.get(k) and not attrs[k].startswith('data:')]


def dead_links(site):
    "(page, link) of each link inside the site that leads nowhere."
    pages = {p: Page(p) for p in site.rglob('*.html')}
    for here, page in pages.items():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc: continue
            target = (here.parent/unquote(url.path)).resolve() if url.path else here
            if target.is_dir(): target /= 'index.html'
            anchor = unquote(url.fragment)
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].ids):
                yield here.relative_to(site).as_posix(), link


# ------------------------------------------------------------------------------------------------ the real book

def test_every_notebook_is_a_page_in_the_sidebar(site):
    home = Page(site/'index.html')
    for name, page in docs.page_paths().items():
        assert (site/page).is_file(), f'{name} has no page'
        assert page in home.links or f'./{page}' in home.links, f'{name} is not in the sidebar'


def test_links_on_the_site(site):
    dead = list(dead_links(site))
    assert not dead, '\n'.join(f'{page}: {link}' for page, link in dead)


def test_dead_links_are_found(tmp_path):
    (tmp_path/'a.html').write_text('<a href="b.html">x</a><a href="a.html#no">x</a><a href="#yes" id="yes">x</a><a href="https://x.y/z">x</a>')
    assert list(dead_links(tmp_path)) == [('a.html', 'b.html'), ('a.html', 'a.html#no')]


def jupyter_links(path):
    "(link, problem) of each relative link in a notebook's Markdown that JupyterLab cannot follow."
    heads = lambda p: {h.strip().replace(' ', '-') for c in read_notebook(p)['cells'] if c['cell_type'] == 'markdown'
                       for h in re.findall(r'^#+ (.+)$', c['source'], re.M)}
    texts = [c['source'] for c in read_notebook(path)['cells'] if c['cell_type'] == 'markdown']
    texts += [''.join(o['data']['text/markdown']) for c in read_notebook(path)['cells'] for o in c.get('outputs', [])
              if 'text/markdown' in o.get('data', {})]
    for text in texts:
        text = re.sub(r'```.*?```|`[^`\n]*`', '', text, flags=re.S)
        for link in re.findall(r'(?<!!)\]\(([^)\s]+)', text) + re.findall(r'(?:href|src)="([^"]+)"', text):
            url = urlsplit(link)
            if url.scheme or link.startswith('attachment:'): continue
            target = path.parent/unquote(url.path) if url.path else path
            if not target.exists(): yield link, 'no such file'
            elif url.fragment and target.suffix == '.ipynb' and unquote(url.fragment) not in heads(target): yield link, 'no such heading'


@pytest.mark.parametrize('name', notebooks())
def test_links_in_jupyterlab(name):
    bad = list(jupyter_links(notebooks()[name]))
    assert not bad, f'{name}: {bad}'


def test_jupyter_links_are_checked(tmp_path):
    (tmp_path/'a.ipynb').write_text(notebook(('markdown', '# A b\n[x](b.ipynb) [y](#A-b) [z](a.ipynb#No) `[i](j)`')))
    assert list(jupyter_links(tmp_path/'a.ipynb')) == [('b.ipynb', 'no such file'), ('a.ipynb#No', 'no such heading')]


def test_no_solution_is_published(site):
    leaks = [p for p in site.rglob('*') if p.is_file() and SECRET.encode() in p.read_bytes()]
    assert not leaks and not (site/'assignments').exists()
    assert not [p for p in site.rglob('*') if 'planted' in p.name or p.suffix == '.ipynb']


def test_the_configuration_alone_excludes_assignments(tmp_path):
    "Whoever renders the tree by hand, with smalldocs or Quarto, publishes none either."
    site = pytest.importorskip('smalldocs.site')
    (tmp_path/'assignments/deep').mkdir(parents=True)
    for name in ('index', 'assignments/a', 'assignments/deep/b'): (tmp_path/f'{name}.ipynb').write_text(notebook(('markdown', f'# {name}')))
    shutil.copy(BOOK/'_quarto.yml', tmp_path)
    assert list(map(str, site.Site(site.load(tmp_path), quiet=True).discover())) == ['index.ipynb']


def test_api_pages_document_what_is_exported(site):
    for module, tops in ((m, t) for path in notebooks().values() for m, t in docs.exported(path).items()):
        page = Page(site/f'api/{module}.html')
        missing = [n for n in tops if n.lower() not in page.ids]
        assert not missing, f'api/{module}.html lacks {missing}'


def test_exported_reads_every_form(tmp_path):
    (tmp_path/'a.ipynb').write_text(notebook(
        ('code', '#| default_exp a'), ('code', '#| export\n%matplotlib inline\ndef f():\n    "F."\n    def inner(): "I."'),
        ('code', '#| exports\nclass C:\n    "C."\n    def m(self): "M."\n    @property\n    def p(self): "P."\n    def _q(self): "Q."'),
        ('code', '#| hide\n#| export other.b\ndef g(): "G."'), ('code', '#| export\n@patch\ndef late(self:C): "L."'),
        ('code', '#| export\ndef undocumented(): pass'), ('code', 'x = """\n#| export\n"""\ndef lesson_only(): "L."')))
    assert docs.exported(tmp_path/'a.ipynb') == {'a': {'f': [], 'C': ['m', 'late']}, 'other.b': {'g': []}}


def test_api_page_shows_parameters(site):
    text = re.sub(r'<[^>]+>', '', (site/'api/core.html').read_text())
    assert 'any non-negative integer' in text and 'seed' in text


def test_exported_code_stays_and_directives_go(site):
    text = re.sub(r'<[^>]+>', '', (site/'lib/core.html').read_text())
    assert 'def get_device' in text and '#| export' not in text and 'default_exp' not in text and 'run_line_magic' not in text


def test_names_in_backticks_lead_to_their_entry(site):
    assert re.search(r'href="(\.\./)?api/checks\.html#inputerror"><code>InputError</code>', (site/'lib/checks.html').read_text())


def test_pictures_have_alternative_text(site):
    bare = [p.name for p in site.rglob('*.html') for img in Page(p).images if not (img.get('alt') or '').strip()]
    assert not bare, f'a picture without alternative text on {bare}: display it with visft_nb.plot.show(fig, alt)'


def test_pages_ask_no_other_server_for_fonts(site):
    for css in site.rglob('*.css'): assert not re.search(r'@import[^;]*https?:', css.read_text(encoding='utf-8')), css.name


def test_home_shows_the_map_of_now(site):
    "On the site always; in the saved notebook too, for JupyterLab and GitHub show that one."
    want = docs.course_map().data
    saved = [''.join(o['data']['text/markdown']) for c in read_notebook(BOOK/'nbs/index.ipynb')['cells'] for o in c.get('outputs', [])
             if 'text/markdown' in o.get('data', {})]
    assert saved == [want], 'nbs/index.ipynb is older than the course: python -c "from visft_nb.course.docs import sync_map; sync_map()"'
    text = (site/'index.html').read_text()
    assert all(f'href="{page}"' in text or f'href="./{page}"' in text for name, page in docs.page_paths().items())


def test_search_index_holds_every_page(site):
    found = {e['href'].partition('#')[0] for e in json.loads((site/'search.json').read_text())}
    assert set(docs.page_paths().values()) <= found


# ------------------------------------------------------------------------------------------------ small books

@pytest.fixture
def toy(tmp_path):
    book = tmp_path/'book'
    (book/'nbs/1_a').mkdir(parents=True)
    (book/'nbs/index.ipynb').write_text(notebook(('markdown', '# Home\n\n> Be at home\n\nText')))
    (book/'nbs/1_a/02_b.ipynb').write_text(notebook(('markdown', '# A title | with a bar\n\n> Do b')))
    (book/'pyproject.toml').write_text('[project]\nname = "toy-book"\n[project.urls]\nRepository = "https://github.com/someone/toy"\n')
    (book/'_quarto.yml').write_text('project: {type: website}\nwebsite: {title: Toy, sidebar: {contents: [index.ipynb]}}\n')
    return book


def test_a_chapter_that_the_configuration_does_not_know_is_listed(toy):
    assert docs.chapters(toy) == [('', ['index']), ('A', ['1_a/02_b'])]
    assert docs.course_map(toy).data.splitlines()[2:] == ['| **A** | |', '| [A title \\| with a bar](1_a/02_b.ipynb) | Do b |']


def test_outputs_on_the_page(toy):
    png = dict(output_type='display_data', data={'image/png': 'iVBO\nRw0', 'text/plain': 'x'}, metadata={'image/png': {'alt': 'a "quoted" <curve>'}})
    widget = dict(output_type='display_data', data={'application/vnd.jupyter.widget-view+json': {}, 'text/plain': 'interactive(…)'}, metadata={})
    link = dict(output_type='display_data', data={'text/html': ['<a href="../index.ipynb">', 'home</a>']}, metadata={})
    stream = dict(output_type='stream', name='stdout', text=['plain'])
    (toy/'nbs/1_a/02_b.ipynb').write_text(notebook(('markdown', '# B\n\n> Do b'), ('code', 'x', png, widget, link, stream)))
    out = docs.page_notebook('1_a/02_b', docs.page_paths(toy), toy)['cells'][-1]['outputs']
    assert out[0]['data']['text/html'] == '<img src="data:image/png;base64,iVBORw0" alt="a &quot;quoted&quot; &lt;curve&gt;" class="img-fluid">'
    assert [o['output_type'] for o in out] == ['display_data', 'display_data', 'stream']
    assert out[1]['data']['text/html'] == '<a href="../index.html">home</a>'


@pytest.mark.parametrize('href,want', [
    ('../index.ipynb', '../index.html'), ('../index.ipynb#The-Map', '../index.html#the-map'), ('02_b.ipynb', 'b.html'),
    ('#2.-Why-Not?', '#why-not'), ('../../pyproject.toml', 'https://github.com/someone/toy/blob/main/pyproject.toml'),
    ('https://example.org/a.ipynb#B', 'https://example.org/a.ipynb#B'), ('missing.ipynb', 'missing.ipynb'), ('../../../etc', '../../../etc')])
def test_site_link(toy, href, want):
    assert docs.site_link(href, '1_a/02_b', docs.page_paths(toy), toy) == want


def test_links_in_fenced_code_stay(toy):
    text = '[a](../index.ipynb)\n```\n[a](../index.ipynb)\n```\n'
    assert docs._relink(text, '1_a/02_b', docs.page_paths(toy), toy) == text.replace('ipynb', 'html', 1)


def test_a_rebuilt_site_replaces_the_old_one_and_survives_a_failure(toy, tmp_path, capsys):
    site = docs.build_docs(tmp_path/'site', toy)
    (site/'old.html').write_text('x')
    docs.build_docs(site, toy)
    assert not (site/'old.html').exists() and (site/'1_a/b.html').is_file()
    (toy/'nbs/1_a/02_b.ipynb').write_text(notebook(('markdown', '# B'), ('code', '#| default_exp b'), ('code', '#| export\ndef f():\n    "F."')))
    with pytest.raises(InputError, match='toy_book'): docs.build_docs(site, toy)
    assert (site/'1_a/b.html').is_file() and sorted(p.name for p in tmp_path.iterdir()) == ['book', 'site']


@pytest.mark.parametrize('name,text,words', [
    ('_quarto.yml', 'a: [', ['_quarto.yml', 'YAML']),
    ('nbs/index.ipynb', '{', ['index.ipynb', 'no JSON']),
    ('nbs/1_a/01_b.ipynb', '{"cells": []}', ['1_a/01_b', '1_a/02_b', 'rename'])])
def test_bad_books(toy, tmp_path, name, text, words):
    (toy/name).write_text(text)
    with refused(words): docs.build_docs(tmp_path/'site', toy)
    assert not (tmp_path/'site').exists()


def test_a_folder_that_is_no_site_is_not_overwritten(toy, tmp_path):
    mine = tmp_path/'mine'
    mine.mkdir()
    (mine/'thesis.tex').write_text('years')
    for out in (mine, toy, toy/'nbs', toy/'nbs/1_a', tmp_path, mine/'thesis.tex'):
        with pytest.raises(InputError, match='another folder'): docs.build_docs(out, toy)
    assert (mine/'thesis.tex').read_text() == 'years' and (toy/'nbs/index.ipynb').is_file()


def test_serving(toy, tmp_path):
    with pytest.raises(InputError, match='visft docs'): docs.docs_server(tmp_path)
    site = tmp_path/'site'
    (site/'site_libs').mkdir(parents=True)
    with docs.docs_server(site) as server:
        assert server.server_address[0] == '127.0.0.1'
        with pytest.raises(InputError, match='Port'): docs.docs_server(site, server.server_address[1])
    with pytest.raises(InputError, match='Port'): docs.docs_server(site, 99999)
