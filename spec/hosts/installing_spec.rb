# frozen_string_literal: true

# Every manifest that docs/installing.md shows compiles, and the message shown is the one that there is.
RSpec.describe 'node.example.com' do
  page = File.read(File.expand_path('../../docs/installing.md', __dir__))
  blocks = page.scan(/^```puppet\n(.*?)^```$/m).flatten

  it('shows manifests') { expect(blocks.size).to be > 4 }

  blocks.each do |block|
    context "with #{block.lines.first.strip}" do
      let(:pre_condition) { block }

      it { is_expected.to compile.with_all_deps }
    end
  end

  context 'with a misspelt key' do
    let(:pre_condition) { blocks.first.sub("'command'", "'comand'") }

    it { is_expected.to compile.and_raise_error(/#{Regexp.escape(page[/^parameter 'routes'.*$/])}/) }
  end
end
