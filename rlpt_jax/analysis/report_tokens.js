// Shows an answer token by token.
const TOKENS = 'Coloured by the advantage, which all tokens of an answer share: ' +
  'the update makes blue ones more probable, orange ones less. Bold: what ' +
  'was judged. Underlined: tokens with a probability below 0.1.';

function byToken(element, answer) {
  const {advantage, token_texts, logprobs, entropies, text} = answer;
  const color = advantage == null ? null : `rgba(var(--${advantage < 0 ?
    'bad' : 'good'}), ${Math.min(0.6, Math.abs(advantage) * 0.3).toFixed(2)})`;
  const note = advantage == null ?
    'This file has no advantage for this answer.' : advantage === 0 ?
      'Advantage 0: the update leaves its tokens as they are.' :
      `Each of its tokens is made ${advantage > 0 ? 'more' : 'less'} ` +
      `probable: advantage ${signed(advantage)}.`;
  const tokens = token_texts ?? [text], [from, to] = answer.answer ?? [0, 0];
  let start = 0;
  element.append(...tokens.map((piece, i) => {
    const token = shown(piece, 'token');
    const end = start + piece.length;
    if (token_texts && start < to && end > from) token.classList.add('judged');
    start = end;
    if (color) token.style.background = color;
    const said = [];
    if (token_texts && logprobs?.[i] != null) {
      const probability = Math.exp(logprobs[i]);
      said.push(`probability ${short(probability)}`);
      if (probability < 0.1) token.classList.add('unsure');
    }
    if (token_texts && entropies?.[i] != null)
      said.push(`entropy ${short(entropies[i])}`);
    // If a character has several tokens, the last one has the text.
    if (!piece) said.push('a part of the character that follows');
    if (said.length) token.title = said.join(', ');
    return token;
  }));
  const card = make('div', {}, element, make('p', {class: 'note'}, note +
    (token_texts ? '' : ' Its tokens were not kept one by one; ' +
      'rollout_files.Kept.tokens=True keeps them.')));
  if (token_texts && logprobs) card.append(tokenReadout(element));
  return card;
}

// Shows the details of the token that is pointed at; works on touch screens too.
function tokenReadout(element) {
  const output = make('output', {class: 'note', 'aria-live': 'off'},
    'Point at a token to read its probability.');
  element.addEventListener('pointerover', ({target}) => {
    const token = target.closest('.token');
    if (token?.title)
      output.replaceChildren(shown(token.textContent), `: ${token.title}`);
  });
  return output;
}
